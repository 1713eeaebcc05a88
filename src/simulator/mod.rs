//! A fault-injecting provider that speaks OpenAI's protocol and, on their own paths, Anthropic's and Google's: behind
//! `forebay simulate` and `forebay demo`, and for tests.
//!
//! It speaks HTTP/1.1 on bare sockets, since what it is for (resets, cut bodies, stalls, garbage) is below what an HTTP
//! server lets one do. Its tasks are `Send` and need nothing but a tokio runtime, an actix System's included.
//!
//! The walk of a call: `http` reads its head, `ledger` numbers it, `faults` draws its fate from seed and number, `ask`
//! reads its body, `limits` (one set for each key, in `accounts`) let it pass or not, `reply` decides what is said (with
//! `instance` where a schema asks for JSON), `answers` and `events` say it as a good provider would and `errors` as one in
//! trouble does, `spoil` breaks that as the fault demands, and `exchange` sends it. Of the three protocols only `face` and
//! those below it know (`anthropic`, `gemini`). All but `http`, `exchange` and this file is pure.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay::simulator::{Fault, Settings, Simulator};
//!
//! let mut settings = Settings::default();
//! settings.odds.set(Fault::Reset, 0.02);
//! let simulator = Simulator::bind("127.0.0.1:0".parse()?, settings)?.start()?;
//! println!("{}", simulator.base_url());
//! let seen = simulator.stop().await;
//! # Ok(()) }
//! ```

mod accounts;
mod answers;
mod anthropic;
mod ask;
mod errors;
mod events;
mod exchange;
mod face;
mod faults;
mod gemini;
mod http;
mod instance;
mod ledger;
pub mod limits;
mod provider;
mod reply;
mod settings;
mod snapshot;
mod spoil;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub use answers::{expected_echo, expected_embedding, prompt_hash};
pub use faults::{Fault, Odds};
pub use limits::{Limits, Rate};
pub use settings::{Beyond, Change, Settings};
pub use snapshot::{Busiest, KeyStanding, LimitedBy, Slots, Snapshot, Tokens};

use crate::clock;
use provider::Provider;

/// How many connections the kernel may hold before they are accepted: a test opens its hundreds at once.
const BACKLOG: i32 = 4096;

/// Why a simulator cannot start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The settings cannot be.
    Settings(String),
    /// The address cannot be listened on.
    Io(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Settings(problem) => out.write_str(problem),
            StartError::Io(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for StartError {}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        StartError::Io(error)
    }
}

/// A provider that listens and does not serve yet: connections wait in the kernel.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    provider: Arc<Provider>,
}

impl Simulator {
    /// Checks `settings` and listens on `address`; port 0 takes a free one. Needs no runtime.
    pub fn bind(address: SocketAddr, settings: Settings) -> Result<Self, StartError> {
        settings.check().map_err(StartError::Settings)?;
        let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
        // A restart must not wait for the connections of the run before; on Windows the option would share the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let provider = Arc::new(Provider::new(settings, listener.local_addr()?));
        Ok(Self { listener, provider })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.provider.address
    }

    /// Serves on the current tokio runtime.
    ///
    /// # Errors
    /// When the listener cannot be registered with the runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> io::Result<Running> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let (running, stop, done) = Running::new(self.provider.clone());
        tokio::spawn(async move {
            serve(listener, self.provider, stop).await;
            drop(done);
        });
        Ok(running)
    }

    /// Serves on a thread of its own, so that the caller's load and the provider's do not wait for each other. Needs no runtime.
    pub fn start_thread(self) -> io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(self.listener)?
        };
        let (running, stop, done) = Running::new(self.provider.clone());
        std::thread::Builder::new().name("simulator".to_owned()).spawn(move || {
            runtime.block_on(serve(listener, self.provider, stop));
            drop(runtime);
            drop(done);
        })?;
        Ok(running)
    }
}

/// A provider that serves. Dropping it stops it, as [`Running::stop`] does, without waiting for the end.
#[derive(Debug)]
pub struct Running {
    provider: Arc<Provider>,
    stop: watch::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Running {
    fn new(provider: Arc<Provider>) -> (Self, watch::Receiver<()>, oneshot::Sender<()>) {
        let (stop, stopped) = watch::channel(());
        let (end, done) = oneshot::channel();
        (Self { provider, stop, done }, stopped, end)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.provider.address
    }

    /// What to give a client of OpenAI's protocol as its base URL: `http://127.0.0.1:PORT/v1`. One of Anthropic's takes it
    /// without the `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.provider.address)
    }

    /// The ledger now. A good answer is in it before its last byte is on the wire.
    pub fn ledger(&self) -> Snapshot {
        self.provider.snapshot()
    }

    /// Other limits for all keys from now on: buckets stay as full as they were, logs, windows and calls in flight are kept.
    /// Changes that the settings announce multiply these from then on.
    ///
    /// # Errors
    /// When the limits cannot be; those before stay in force.
    pub fn set_limits(&self, limits: Limits) -> Result<(), String> {
        limits.check()?;
        self.provider.set_limits(limits);
        Ok(())
    }

    /// Waits until the ledger fulfils `condition`. Nothing is lost when the future is dropped.
    pub async fn until(&self, condition: impl Fn(&Snapshot) -> bool) -> Snapshot {
        let mut changes = self.provider.ledger.changes();
        loop {
            changes.borrow_and_update();
            let snapshot = self.ledger();
            if condition(&snapshot) {
                return snapshot;
            }
            // The ledger, and with it the sender, lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Cuts all connections, frees the port, and gives the last state of the ledger.
    pub async fn stop(self) -> Snapshot {
        let Running { provider, stop, done } = self;
        drop(stop);
        // An error is the end: nothing is ever sent.
        let _ = done.await;
        provider.snapshot()
    }
}

async fn serve(listener: tokio::net::TcpListener, provider: Arc<Provider>, mut stop: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Nothing is ever sent: a change is the sender's end.
            _ = stop.changed() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    provider.ledger.connected();
                    connections.spawn(exchange::converse(stream, provider.clone()));
                }
                // Mostly "too many open files": some will be closed in a moment, and a tight loop would not help them.
                Err(_) => clock::until(clock::now() + Duration::from_millis(20)).await,
            },
        }
    }
    connections.shutdown().await;
}
