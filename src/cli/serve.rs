//! `forebay serve`: the daemon, from its configuration to its last connection.

use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::sync::oneshot;

use super::{BAD_USAGE, Configuration};
use crate::clock;
use crate::config::{Config, Pool, Problems, Sources};
use crate::gateway::{Gateway, GatewayHandle, raise_descriptors};
use crate::system::Forebay;
use crate::telemetry;

/// The system or a file did not let it start.
const EXIT_CANNOT_START: u8 = 1;
/// A second signal did not want to wait.
const EXIT_INTERRUPTED: u8 = 130;

/// Why the daemon does not start, or does not go on: its exit code, and a line for each problem.
struct Refusal {
    code: u8,
    problems: Vec<String>,
}

impl Refusal {
    /// The system is in the way, not what was configured.
    fn cannot(problem: String) -> Self {
        Self { code: EXIT_CANNOT_START, problems: vec![problem] }
    }

    /// The configuration is.
    fn usage(problems: Vec<String>) -> Self {
        Self { code: BAD_USAGE, problems }
    }
}

/// Runs the daemon until a signal ends it.
pub(crate) fn run(configuration: &Configuration) -> ExitCode {
    match actix_rt::System::new().block_on(daemon(&configuration.files)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { code, problems }) => {
            for problem in problems {
                // To stderr itself and not to the log: this is for whoever typed the command.
                let _ = writeln!(std::io::stderr(), "forebay: {problem}");
            }
            ExitCode::from(code)
        }
    }
}

/// The daemon's life, from the first signal it may hear on.
async fn daemon(files: &[PathBuf]) -> Result<(), Refusal> {
    // Before anything else: a signal that comes early must not kill us half-way.
    let mut signals = Signals::new().map_err(|error| Refusal::cannot(format!("cannot handle signals: {error}")))?;
    let config = tokio::select! {
        biased;
        () = signals.stop() => return Ok(()),
        config = loaded(files) => config.map_err(Refusal::usage)?,
    };
    telemetry::logging::init(&config.log).map_err(|problem| Refusal::usage(vec![problem]))?;
    for warning in &config.warnings {
        telemetry::gateway::config_warning(warning);
    }
    let listen = config.server.listen;
    let listener = Gateway::bind(listen)
        .map_err(|error| Refusal::cannot(format!("cannot listen on {listen}: {error}; {}", cure(error.kind()))))?;
    match raise_descriptors() {
        Ok(Some((before, now))) => telemetry::gateway::descriptors(before, now),
        Ok(None) => {}
        Err(error) => telemetry::gateway::descriptors_not_raised(&error),
    }
    serve(config, listener, files, signals).await.map_err(Refusal::cannot)
}

/// What can be done about an address that cannot be listened on.
fn cure(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => "choose another [server] listen, or stop what listens there",
        ErrorKind::PermissionDenied => "choose a port of 1024 or above for [server] listen, or permit this one",
        ErrorKind::AddrNotAvailable => "[server] listen must be an address of this machine, or 0.0.0.0 for all of them",
        _ => "choose another [server] listen",
    }
}

/// Reads the configuration as `serve` needs it; on a thread of its own, since a file that hangs must not keep signals
/// waiting.
async fn loaded(files: &[PathBuf]) -> Result<Config, Vec<String>> {
    let (send, config) = oneshot::channel();
    let files = files.to_owned();
    let reader = move || drop(send.send(load(&files)));
    let started = std::thread::Builder::new().name("forebay-config".into()).spawn(reader);
    started.map_err(|error| vec![format!("no thread could be started to read the configuration: {error}")])?;
    config.await.unwrap_or_else(|_| Err(vec!["the configuration could not be read: its reader crashed".to_owned()]))
}

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

/// From its start to its last connection.
async fn serve(config: Config, listener: TcpListener, files: &[PathBuf], signals: Signals) -> Result<(), String> {
    let (upstreams, threads) = (config.upstreams.len(), config.pool.threads);
    let forebay = Forebay::builder(config).opening_store().start().await.map_err(|error| error.message().to_owned())?;
    let gateway = Gateway::serve(listener, &forebay).map_err(|error| format!("cannot serve connections: {error}"))?;
    let addr = gateway.local_addr();
    telemetry::gateway::started(addr, upstreams, threads);
    // For whoever started us, scripts included: one line, whatever the log's level and form.
    let _ = writeln!(std::io::stdout(), "listening on http://{addr}");
    live(forebay, gateway, files, signals).await
}

/// Does what signals ask for, until one of them or a failure is the end.
async fn live(forebay: Forebay, gateway: GatewayHandle, files: &[PathBuf], mut signals: Signals) -> Result<(), String> {
    tokio::select! {
        biased;
        () = stopped(&forebay, files, &mut signals) => {}
        () = forebay.failed() => {
            // Its calls have their error: it is still to be written.
            gateway.drain();
            gateway.close(clock::now()).await;
            return Err("the system keeps crashing, its first thread has ended, or the disk of its store has failed; see the log".to_owned());
        }
    }
    tokio::select! {
        biased;
        () = signals.stop_again() => {
            telemetry::gateway::interrupted();
            std::process::exit(i32::from(EXIT_INTERRUPTED))
        }
        () = end(&forebay, gateway) => Ok(()),
    }
}

/// Resolves when a signal asks to stop; reloads whenever one asks for that.
async fn stopped(forebay: &Forebay, files: &[PathBuf], signals: &mut Signals) {
    let begun = forebay.config();
    while signals.next().await == Signal::Reload {
        tokio::select! {
            biased;
            () = signals.stop() => return,
            config = loaded(files) => reload(forebay, config, &begun),
        }
    }
}

/// Lets accepted calls go on for as long as the configuration says, then ends them and all connections.
async fn end(forebay: &Forebay, gateway: GatewayHandle) {
    let within = forebay.config().server.drain_timeout;
    let deadline = clock::after(clock::now(), within);
    gateway.drain();
    // Behind the fact: whoever reads it finds it so.
    telemetry::gateway::draining(within);
    forebay.shutdown(within).await;
    telemetry::gateway::drained();
    gateway.close(deadline).await;
    telemetry::gateway::stopped();
}

/// Puts the configuration in force that was read; a bad one changes nothing. `begun` is what the daemon started with.
fn reload(forebay: &Forebay, config: Result<Config, Vec<String>>, begun: &Config) {
    let config = match config {
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
    let (server, pool, log) = (&config.server, &config.pool, &config.log);
    let watch = |pool: &Pool| (pool.max_restarts, pool.restart_window, pool.thread_timeout);
    let fixed = [
        ("[server] listen", server.listen != begun.server.listen),
        ("[store] url", config.store.url != begun.store.url),
        ("[pool] threads", pool.threads != begun.pool.threads),
        ("[pool] max_restarts, restart_window, thread_timeout", watch(pool) != watch(&begun.pool)),
        ("[log]", log.level != begun.log.level || log.format != begun.log.format),
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

    /// Waits for a signal to stop; one to reload is left for later.
    async fn stop(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
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

    async fn stop(&mut self) {
        self.next().await;
    }
}

impl Signals {
    /// Waits for another signal to stop; one to reload comes too late.
    async fn stop_again(&mut self) {
        while self.next().await == Signal::Reload {
            telemetry::gateway::reload_too_late();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn a_daemon_whose_first_thread_ends_does_not_go_on_without_it() {
        let text = "[pool]\nthreads = 2\n[upstreams.up]\nbase_url = \"http://up.test/v1\"\nmodels = [\"m\"]";
        let forebay = Forebay::start(Config::from_toml(text).unwrap()).await.unwrap();
        let listener = Gateway::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let gateway = Gateway::serve(listener, &forebay).unwrap();
        assert!(forebay.arbiters()[0].spawn_fn(|| actix_rt::System::current().stop()));
        let problem = live(forebay, gateway, &[], Signals::new().unwrap()).await.unwrap_err();
        assert!(problem.contains("its first thread has ended"), "{problem}");
    }

    #[cfg(unix)]
    #[actix_web::test]
    async fn a_failure_is_noticed_while_a_file_to_reload_hangs() {
        use std::process::{Command, id};
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("forebay.toml");
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        let text = "[pool]\nthreads = 1\n[upstreams.up]\nbase_url = \"http://up.test/v1\"\nmodels = [\"m\"]";
        let forebay = Forebay::start(Config::from_toml(text).unwrap()).await.unwrap();
        let gateway = Gateway::serve(Gateway::bind(([127, 0, 0, 1], 0).into()).unwrap(), &forebay).unwrap();
        let (signals, files) = (Signals::new().unwrap(), [file.clone()]);
        let lived = actix_rt::spawn({
            let forebay = forebay.clone();
            async move { live(forebay, gateway, &files, signals).await }
        });
        assert!(Command::new("kill").args(["-HUP", &id().to_string()]).status().unwrap().success());
        // Opens as soon as somebody reads, who then waits for what is never written.
        let writer = tokio::task::spawn_blocking(|| std::fs::File::options().write(true).open(file));
        let writer = writer.await.unwrap().unwrap();
        assert!(forebay.arbiters()[0].spawn_fn(|| actix_rt::System::current().stop()));
        let problem = lived.await.unwrap().unwrap_err();
        assert!(problem.contains("its first thread has ended"), "{problem}");
        drop(writer);
    }

    #[test]
    fn an_address_that_cannot_be_listened_on_comes_with_what_to_do_about_it() {
        assert!(cure(ErrorKind::AddrInUse).contains("stop what listens there"));
        assert!(cure(ErrorKind::PermissionDenied).contains("1024"));
        assert!(cure(ErrorKind::AddrNotAvailable).contains("an address of this machine"));
    }
}
