//! Events for the bare server: the very bytes that a gateway would write for each alone, and the group that gets them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use tickwire_core::ids::{Partition, Seq};
use tickwire_core::protocol::{Encoding, encode_event, write_array};

use super::{InjectError, now};
use crate::bare::{COUNT, FEED};
use crate::draw::Draw;
use crate::oracle::Oracle;
use crate::reader::{TEXT, server_frame};

/// The connection that carries events. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BareFeed {
    stream: Arc<TcpStream>,
    draw: Draw,
    oracle: Arc<Oracle>,
}

impl BareFeed {
    /// Connects to the server.
    pub(crate) fn connect(server: SocketAddr, draw: Draw, oracle: Arc<Oracle>) -> Result<Self, InjectError> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.write_all(&FEED.to_le_bytes())?;
        Ok(Self { stream: Arc::new(stream), draw, oracle })
    }

    /// Sends events, and waits until there is room for them.
    pub(super) fn send(&self, numbers: Range<u64>) -> Result<(), InjectError> {
        let mut message = Vec::new();
        for number in numbers {
            let seq = Seq(number + 1);
            let event = self.draw.class(number).event(number, seq, now()).map_err(InjectError::Event)?;
            let object = encode_event(&event, Partition(0), seq, Encoding::Json);
            let mut array = Vec::new();
            write_array(&mut array, [&object[..]].into_iter(), Encoding::Json);
            let frame = server_frame(TEXT, &array);
            message.extend(self.oracle.group(number).to_le_bytes());
            message.extend((frame.len() as u32).to_le_bytes());
            message.extend(frame);
        }
        Ok((&*self.stream).write_all(&message)?)
    }

    /// How many times the server has called `send` for an event.
    pub(crate) fn sends(&self) -> Result<u64, InjectError> {
        let (mut question, mut answer) = (COUNT.to_le_bytes().to_vec(), [0; 8]);
        question.extend(0_u32.to_le_bytes());
        (&*self.stream).write_all(&question)?;
        (&*self.stream).read_exact(&mut answer)?;
        Ok(u64::from_le_bytes(answer))
    }
}
