//! The terminal: an alternate screen without echo, which is as before when this ends, by a panic as well.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, Read, Write};
use std::thread;
use tokio::sync::mpsc;

use super::render::Line;

/// To the alternate screen and back, with the cursor away.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// How many keys may wait.
const KEYS: usize = 16;

/// Width and height in characters; `None` if standard output is no terminal, or does not know.
pub(super) fn size() -> Option<(usize, usize)> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// A terminal that shows pages.
pub(super) struct Terminal {
    before: Termios,
    colours: bool,
}

impl Terminal {
    /// Takes the terminal of standard input and output.
    ///
    /// # Errors
    /// When it is no terminal.
    pub(super) fn enter(colours: bool) -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut modes = before.clone();
        // Ctrl-C and Ctrl-Z arrive as keys: a stopped process would leave the alternate screen behind.
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(io::stdin(), OptionalActions::Now, &modes)?;
        let terminal = Self { before, colours };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Draws over what is there.
    pub(super) fn draw(&self, lines: &[Line]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            text += if at == 0 { "" } else { "\r\n" };
            text += &line.styled(self.colours);
            text += "\x1b[K";
        }
        text += "\x1b[J";
        write(text.as_bytes())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        write(LEAVE).ok();
        tcsetattr(io::stdin(), OptionalActions::Now, &self.before).ok();
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes)?;
    output.flush()
}

/// The bytes that are typed. A thread reads them: a process can end while a thread waits, but not while the runtime
/// does.
///
/// # Errors
/// When the system starts no thread.
pub(super) fn keys() -> io::Result<mpsc::Receiver<u8>> {
    let (sender, keys) = mpsc::channel(KEYS);
    let read = move || {
        let mut key = [0; 1];
        let mut input = io::stdin().lock();
        while matches!(input.read(&mut key), Ok(1)) {
            let [byte] = key;
            if sender.blocking_send(byte).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read)?;
    Ok(keys)
}
