//! One thread of sockets: it connects its share of them, a bounded number at a time, and then reads those that have
//! data.

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{FleetShared, Harvest, SocketEndState, SocketsError};
use crate::client::{BenchClient, ClientStage, Counts, Lost};

/// How many sockets of a thread are connecting at a time.
const CONNECTING: usize = 64;

/// How many sockets share a source address, out of the 28,000 that the default range of ports allows.
const PER_ADDRESS: u32 = 8_000;

/// How much is read at a time.
const BUFFER: usize = 256 * 1024;

/// How many sockets are read in a turn.
const TURN_EVENTS: usize = 128;

/// How long a thread sleeps at most.
const TURN: Duration = Duration::from_millis(50);

/// How long a client of `churn` is connected.
const CHURN_STAY: Duration = Duration::from_secs(1);

/// The receive buffer of a reader that stalls: small, as for a client on a bad network. The second value is its size
/// when it reads again, so that it can read everything that is left.
const STALLER_BUFFER: usize = 4 * 1024;
const READER_BUFFER: usize = 1024 * 1024;
const STALLER_SEGMENT: u32 = 1_400;

const WAKE: Token = Token(usize::MAX);

/// The state of a thread.
#[derive(Debug)]
pub(super) struct SocketWorker {
    shared: Arc<FleetShared>,
    poll: Poll,
    clients: Slab<BenchClient>,
    counts: Counts,
    buffer: Vec<u8>,
    /// The sockets of this thread that have not been opened yet.
    to_open: std::iter::StepBy<std::ops::Range<u32>>,
    connecting: usize,
    stalled: bool,
    ends: Vec<SocketEndState>,
    churn: Churn,
}

/// The clients that come and go.
#[derive(Debug)]
struct Churn {
    every: Option<Duration>,
    next: Option<Instant>,
    next_number: u32,
    step: u32,
    /// When each client that is connected came.
    staying: VecDeque<(Instant, usize)>,
    gone: u64,
    lost: (u64, Option<Lost>),
}

impl SocketWorker {
    /// Thread `number` of `threads`, and what wakes it.
    pub(super) fn new(shared: Arc<FleetShared>, number: u32, threads: u32) -> Result<(Self, Waker), SocketsError> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let sockets = shared.plan.sockets;
        let churn = Churn {
            every: Duration::from_secs(threads.into()).checked_div(shared.plan.churn()),
            next: None,
            next_number: sockets + number,
            step: threads,
            staying: VecDeque::new(),
            gone: 0,
            lost: (0, None),
        };
        let worker = Self {
            poll,
            clients: Slab::new(),
            counts: Counts::new(),
            buffer: vec![0; BUFFER],
            to_open: (number..sockets.max(number)).step_by(threads as usize),
            connecting: 0,
            stalled: false,
            ends: Vec::new(),
            churn,
            shared,
        };
        Ok((worker, waker))
    }

    /// Runs until `stop` is set. A failure is reported at once, so that the bench ends the run.
    pub(super) fn run(mut self) -> Result<Harvest, SocketsError> {
        if let Err(error) = self.turns() {
            *self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        for (_, client) in std::mem::take(&mut self.clients) {
            if client.number < self.shared.plan.sockets {
                self.ends.push(SocketEndState::of(&client, None));
            }
        }
        Ok(Harvest {
            ends: self.ends,
            latencies: self.counts.latencies,
            other_frames: self.counts.other_frames,
            churned: self.churn.gone,
            churn_lost: self.churn.lost,
        })
    }

    fn turns(&mut self) -> Result<(), SocketsError> {
        let mut events = Events::with_capacity(TURN_EVENTS);
        while !self.shared.stop.load(Ordering::Relaxed) {
            while self.connecting < CONNECTING
                && let Some(number) = self.to_open.next()
            {
                self.connect(number)?;
            }
            let wait = self.churn.next.map_or(TURN, |at| TURN.min(at.saturating_duration_since(Instant::now())));
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            self.counts.first_due = self.shared.first_due.get().copied();
            for event in &events {
                if event.token() != WAKE {
                    self.ready(event.token().0, event.is_read_closed())?;
                }
            }
            self.follow_stall()?;
            self.churn_clients()?;
            self.publish();
            // The injector and NATS may share this processor, and this thread must not delay events.
            thread::yield_now();
        }
        Ok(())
    }

    fn connect(&mut self, number: u32) -> Result<usize, SocketsError> {
        let plan = &self.shared.plan;
        let address = source_address(self.shared.origin, number);
        let stalls = plan.stalls(number);
        let stream = dial(address, self.shared.server_of(number), stalls);
        let stream = stream.map_err(|error| SocketsError::Lost { number, source_address: address, lost: error.into() });
        let measured = number < plan.sockets && !stalls;
        let entry = self.clients.vacant_entry();
        let at = entry.key();
        let client = entry.insert(BenchClient::new(number, stream?, stalls, measured));
        self.poll.registry().register(&mut client.stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
        self.connecting += 1;
        Ok(at)
    }

    /// A socket can be written to for the first time, or read, perhaps to its end.
    fn ready(&mut self, at: usize, to_end: bool) -> Result<(), SocketsError> {
        let Some(client) = self.clients.get_mut(at) else { return Ok(()) };
        if client.stalls && self.stalled {
            client.unread = true;
            return Ok(());
        }
        let (stage, events) = (client.stage, client.tally.events);
        let shared = &self.shared;
        let done = match client.open(&shared.dialect, shared.server_of(client.number)) {
            Ok(()) => client.read(&shared.plan, &mut self.counts, &mut self.buffer, to_end),
            Err(lost) => Err(lost),
        };
        if client.measured {
            shared.received.fetch_add(client.tally.events - events, Ordering::Relaxed);
        }
        if stage != ClientStage::Ready && client.stage == ClientStage::Ready {
            self.connecting -= 1;
            if client.number < shared.plan.sockets {
                shared.ready.fetch_add(1, Ordering::Relaxed);
            }
        }
        match done {
            Ok(()) => Ok(()),
            Err(lost) => self.lose(at, lost),
        }
    }

    /// A socket ended by itself. Before it was ready that is a failure of the run, later a part of its result.
    fn lose(&mut self, at: usize, lost: Lost) -> Result<(), SocketsError> {
        let Some(mut client) = self.clients.try_remove(at) else { return Ok(()) };
        self.poll.registry().deregister(&mut client.stream)?;
        let number = client.number;
        if client.stage != ClientStage::Ready {
            self.connecting -= 1;
        }
        if number >= self.shared.plan.sockets {
            self.churn.staying.retain(|(_, staying)| *staying != at);
            self.churn.lost.0 += 1;
            self.churn.lost.1.get_or_insert(lost);
        } else if client.stage == ClientStage::Ready {
            self.ends.push(SocketEndState::of(&client, Some(lost)));
        } else {
            let source_address = source_address(self.shared.origin, number);
            return Err(SocketsError::Lost { number, source_address, lost });
        }
        Ok(())
    }

    fn follow_stall(&mut self) -> Result<(), SocketsError> {
        let stalled = self.shared.stalled.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.stalled, stalled) && !stalled {
            let unread: Vec<usize> =
                self.clients.iter().filter(|(_, client)| client.unread).map(|(at, _)| at).collect();
            for at in unread {
                SockRef::from(&self.clients[at].stream).set_recv_buffer_size(READER_BUFFER)?;
                self.ready(at, true)?;
            }
        }
        Ok(())
    }

    /// Connects the clients that are due, and closes those that were connected for [`CHURN_STAY`].
    fn churn_clients(&mut self) -> Result<(), SocketsError> {
        let Some(every) = self.churn.every.filter(|_| self.shared.churning.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        let now = Instant::now();
        let mut due = self.churn.next.unwrap_or(now);
        while due <= now {
            let number = self.churn.next_number;
            self.churn.next_number = number.wrapping_add(self.churn.step).max(self.shared.plan.sockets);
            let at = self.connect(number)?;
            self.churn.staying.push_back((now, at));
            due += every;
        }
        self.churn.next = Some(due);
        while let Some((_, at)) = self.churn.staying.pop_front_if(|(came, _)| *came + CHURN_STAY <= now) {
            if let Some(mut client) = self.clients.try_remove(at) {
                self.connecting -= usize::from(client.stage != ClientStage::Ready);
                client.leave();
                self.poll.registry().deregister(&mut client.stream)?;
                self.churn.gone += 1;
            }
        }
        Ok(())
    }

    /// Adds the counts since the last turn to those that all threads share.
    fn publish(&mut self) {
        let (FleetShared { events, frames, bytes, .. }, counts) = (&*self.shared, &mut self.counts);
        for (shared, own) in [(events, &mut counts.events), (frames, &mut counts.frames), (bytes, &mut counts.bytes)] {
            shared.fetch_add(std::mem::take(own), Ordering::Relaxed);
        }
    }
}

impl SocketEndState {
    fn of(client: &BenchClient, lost: Option<Lost>) -> Self {
        Self { number: client.number, tally: client.tally, lost, warned: client.warned }
    }
}

/// Where a socket comes from: an address of the loopback network, and any port.
fn source_address(origin: u8, number: u32) -> SocketAddr {
    let last = 1 + (number / PER_ADDRESS) % 250;
    SocketAddrV4::new(Ipv4Addr::new(127, 0, origin, last as u8), 0).into()
}

fn dial(from: SocketAddr, to: SocketAddr, stalls: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if stalls {
        socket.set_recv_buffer_size(STALLER_BUFFER)?;
        socket.set_tcp_mss(STALLER_SEGMENT)?;
    }
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}
