//! `tickwire bench-bare`: the yardstick. A server that knows the sockets of every event beforehand and does nothing but
//! one `send` of ready bytes per delivery, in one thread.
//!
//! The first number of a connection gives its role (all numbers are 32 bits, little-endian): a socket sends how many
//! groups it belongs to, and then their numbers; the feed sends [`FEED`], and then events, each a group, a length and
//! the bytes for every socket of the group. The group [`COUNT`] asks how many times `send` was called, in 64 bits.

use clap::Args;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use super::reader::{TEXT, server_frame};
use tickwire_command::stop;

/// The first number that the feed sends.
pub(crate) const FEED: u32 = u32::MAX;

/// The group that stands for the question how many times `send` was called.
pub(crate) const COUNT: u32 = u32::MAX;

const LISTENER: Token = Token(usize::MAX);

/// The flags of the bare server: none.
#[derive(Debug, Args)]
pub struct BareArgs {}

/// What a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BareRole {
    Unknown,
    Socket,
    Feed,
}

#[derive(Debug)]
struct BarePeer {
    stream: TcpStream,
    role: BareRole,
    input: Vec<u8>,
    /// What the kernel did not take.
    unsent: Vec<u8>,
}

#[derive(Debug)]
struct BareServer {
    poll: Poll,
    listener: TcpListener,
    peers: Slab<BarePeer>,
    groups: Vec<Vec<usize>>,
    sends: u64,
    buffer: Vec<u8>,
}

impl BareArgs {
    /// Serves until standard input ends.
    ///
    /// # Errors
    /// When no port can be listened on.
    pub fn run(&self) -> io::Result<()> {
        stop::when_input_ends(|| std::process::exit(0))?;
        let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", listener.local_addr()?)?;
        stdout.flush()?;
        let buffer = vec![0; 64 * 1024];
        BareServer { poll, listener, peers: Slab::new(), groups: Vec::new(), sends: 0, buffer }.serve()
    }
}

impl BareServer {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(at) => self.handle_peer(at)?,
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nodelay(true)?;
            let entry = self.peers.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(entry.key()), interest)?;
            entry.insert(BarePeer { stream, role: BareRole::Unknown, input: Vec::new(), unsent: Vec::new() });
        }
    }

    /// Writes the unsent bytes and reads the available ones. A connection that fails is removed.
    fn handle_peer(&mut self, at: usize) -> io::Result<()> {
        if self.exchange(at).is_err()
            && let Some(mut peer) = self.peers.try_remove(at)
        {
            self.poll.registry().deregister(&mut peer.stream)?;
            self.groups.iter_mut().for_each(|group| group.retain(|member| *member != at));
        }
        Ok(())
    }

    fn exchange(&mut self, at: usize) -> io::Result<()> {
        while let Some(peer) = self.peers.get_mut(at) {
            peer.flush(&mut self.sends)?;
            match peer.stream.read(&mut self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    peer.input.extend_from_slice(&self.buffer[..read]);
                    self.take(at)?;
                    if read < self.buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what came from a connection, as far as it is whole.
    fn take(&mut self, at: usize) -> io::Result<()> {
        let peer = &mut self.peers[at];
        match peer.role {
            BareRole::Unknown => match number(&peer.input, 0) {
                Some(FEED) => {
                    peer.role = BareRole::Feed;
                    peer.input.drain(..4);
                    self.take(at)
                }
                Some(count) if peer.input.len() >= 4 + 4 * count as usize => {
                    peer.role = BareRole::Socket;
                    let input = std::mem::take(&mut peer.input);
                    for group in (1..=count as usize).filter_map(|place| number(&input, 4 * place)) {
                        let group = group as usize;
                        self.groups.resize_with(self.groups.len().max(group + 1), Vec::new);
                        self.groups[group].push(at);
                    }
                    peer.stream.write_all(&server_frame(TEXT, br#"[{"T":"subscribed"}]"#))
                }
                _ => Ok(()),
            },
            BareRole::Socket => {
                peer.input.clear();
                Ok(())
            }
            BareRole::Feed => {
                let input = std::mem::take(&mut peer.input);
                let mut rest = &input[..];
                while let (Some(group), Some(length)) = (number(rest, 0), number(rest, 4))
                    && let Some(bytes) = rest[8..].get(..length as usize)
                {
                    rest = &rest[8 + length as usize..];
                    if group == COUNT {
                        self.peers[at].stream.write_all(&self.sends.to_le_bytes())?;
                    } else {
                        self.deliver(group, bytes);
                    }
                }
                self.peers[at].input = rest.to_vec();
                Ok(())
            }
        }
    }

    fn deliver(&mut self, group: u32, bytes: &[u8]) {
        for at in self.groups.get(group as usize).into_iter().flatten() {
            let Some(peer) = self.peers.get_mut(*at) else { continue };
            if !peer.unsent.is_empty() {
                peer.unsent.extend_from_slice(bytes);
                continue;
            }
            self.sends += 1;
            // What else can go wrong with a connection shows when it is read.
            let taken = peer.stream.write(bytes).unwrap_or(0);
            peer.unsent.extend_from_slice(&bytes[taken..]);
        }
    }
}

impl BarePeer {
    fn flush(&mut self, sends: &mut u64) -> io::Result<()> {
        while !self.unsent.is_empty() {
            *sends += 1;
            match self.stream.write(&self.unsent) {
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|number| u32::from_le_bytes(*number))
}
