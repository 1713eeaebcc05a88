//! `forebay serve`: the daemon, from its configuration to its last connection.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{BAD_USAGE, Configuration};
use crate::clock;
use crate::config::{Config, Problems, Sources};
use crate::gateway::{Gateway, GatewayHandle, raise_descriptors};
use crate::system::Forebay;
use crate::telemetry;

/// The system or a file did not let it start.
const EXIT_CANNOT_START: u8 = 1;
/// A second signal did not want to wait.
const EXIT_INTERRUPTED: u8 = 130;

/// After the drain all calls have ended: connections get so long to write their last bytes.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the daemon until a signal ends it.
pub(crate) fn run(configuration: &Configuration) -> ExitCode {
    let files = &configuration.files;
    let config = match load(files) {
        Ok(config) => config,
        Err(problems) => return refuse(BAD_USAGE, &problems),
    };
    if let Err(problem) = telemetry::logging::init(&config.log) {
        return refuse(BAD_USAGE, &[problem]);
    }
    for warning in &config.warnings {
        telemetry::gateway::config_warning(warning);
    }
    let listen = config.server.listen;
    let listener = match Gateway::bind(listen) {
        Ok(listener) => listener,
        Err(error) => {
            let fix = "choose another [server] listen, or stop what listens there";
            return refuse(EXIT_CANNOT_START, &[format!("cannot listen on {listen}: {error}; {fix}")]);
        }
    };
    match raise_descriptors() {
        Ok(Some((before, now))) => telemetry::gateway::descriptors(before, now),
        Ok(None) => {}
        Err(error) => telemetry::gateway::descriptors_not_raised(&error),
    }
    match actix_rt::System::new().block_on(serve(config, listener, files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => refuse(EXIT_CANNOT_START, &[problem]),
    }
}

/// Reads the configuration as `serve` needs it.
fn load(files: &[PathBuf]) -> Result<Config, Vec<String>> {
    let config = Config::from_sources(&Sources::of_process(files)).map_err(|problems| lines(&problems))?;
    match config.pool.threads {
        0 => Err(vec!["[pool] threads = 0 is for programs that embed forebay; the daemon needs at least 1".to_owned()]),
        _ => Ok(config),
    }
}

/// Each problem in a line of its own.
fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

fn refuse(code: u8, problems: &[String]) -> ExitCode {
    for problem in problems {
        // To stderr itself and not to the log: this is for whoever typed the command.
        let _ = writeln!(std::io::stderr(), "forebay: {problem}");
    }
    ExitCode::from(code)
}

/// The daemon's life on its System.
async fn serve(config: Config, listener: TcpListener, files: &[PathBuf]) -> Result<(), String> {
    // Before anything is started: a signal that comes early must not kill us half-way.
    let mut signals = Signals::new().map_err(|error| format!("cannot handle signals: {error}"))?;
    let (upstreams, threads) = (config.upstreams.len(), config.pool.threads);
    let forebay = Forebay::start(config).await.map_err(|error| error.to_string())?;
    let gateway = Gateway::serve(listener, &forebay).map_err(|error| format!("cannot serve connections: {error}"))?;
    let addr = gateway.local_addr();
    telemetry::gateway::started(addr, upstreams, threads);
    // For whoever started us, scripts included: one line, whatever the log's level and form.
    let _ = writeln!(std::io::stdout(), "listening on http://{addr}");
    loop {
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::Reload => reload(&forebay, files),
                Signal::Stop => break,
            },
            () = forebay.failed() => return Err("the system keeps crashing; see the log".to_owned()),
        }
    }
    let ending = async {
        end(&forebay, gateway).await;
        telemetry::gateway::stopped();
    };
    tokio::select! {
        biased;
        () = signals.stop_again() => std::process::exit(i32::from(EXIT_INTERRUPTED)),
        () = ending => Ok(()),
    }
}

/// Lets accepted calls go on for as long as the configuration says, then ends them and all connections.
async fn end(forebay: &Forebay, mut gateway: GatewayHandle) {
    let within = forebay.config().server.drain_timeout;
    telemetry::gateway::draining(within);
    gateway.drain();
    forebay.shutdown(within).await;
    gateway.stop_accepting();
    tokio::select! {
        biased;
        () = gateway.closed() => {}
        () = clock::until(clock::now() + CLOSE_WITHIN) => {}
    }
}

/// Puts the configuration in force that files and environment hold now; a bad one changes nothing.
fn reload(forebay: &Forebay, files: &[PathBuf]) {
    let config = match load(files) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                telemetry::gateway::reload_refused(problem);
            }
            return;
        }
    };
    for warning in &config.warnings {
        telemetry::gateway::config_warning(warning);
    }
    let old = forebay.config();
    let fixed = [
        ("[server] listen", config.server.listen != old.server.listen),
        ("[pool] threads", config.pool.threads != old.pool.threads),
        ("[log]", config.log.level != old.log.level || config.log.format != old.log.format),
    ];
    forebay.reconfigure(config);
    telemetry::gateway::reloaded();
    for (key, _) in fixed.iter().filter(|(_, changed)| *changed) {
        telemetry::gateway::needs_restart(key);
    }
}

/// What a signal asks of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Signal {
    Stop,
    Reload,
}

/// The signals of this process. Handlers are installed by the daemon only, never by the library.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}

/// Elsewhere there is Ctrl-C, and nothing that asks for a reload.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        match tokio::signal::ctrl_c().await {
            Ok(()) => Signal::Stop,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Signals {
    /// Waits for another signal to stop; one to reload comes too late and is ignored.
    async fn stop_again(&mut self) {
        while self.next().await != Signal::Stop {}
    }
}
