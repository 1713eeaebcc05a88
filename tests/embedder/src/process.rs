//! What belongs to the whole process, and so to the program and not to a library in it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Panics that the program's own hook has seen.
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// How things stood before forebay was started.
pub struct State {
    signals: Vec<String>,
}

impl State {
    /// Takes stock, and installs the program's own panic hook, which counts in silence what the checks plant.
    pub fn take() -> Self {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match panic.payload().downcast_ref::<&str>() {
            Some(&super::upstream::PLANTED) => drop(SEEN.fetch_add(1, Ordering::Relaxed)),
            _ => usual(panic),
        }));
        Self { signals: signals() }
    }

    /// Ends the program when something is not as it was.
    pub fn assert_unchanged(&self) {
        assert_eq!(signals(), self.signals, "signals ignored and caught");
        assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "a crypto provider was installed");
        assert!(!tracing::dispatcher::has_been_set(), "a subscriber was installed");
        let before = panics();
        let planted = std::thread::spawn(|| std::panic::panic_any(super::upstream::PLANTED));
        assert!(planted.join().is_err());
        assert_eq!(panics(), before + 1, "the program's panic hook was replaced");
    }
}

/// Planted panics that the program's hook has seen so far.
pub fn panics() -> usize {
    SEEN.load(Ordering::Relaxed)
}

/// Which signals the process ignores and catches, as Linux tells; elsewhere nothing is told.
fn signals() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("SigIgn") || line.starts_with("SigCgt")).map(str::to_owned).collect()
}

/// Waits until no thread of forebay's is there any more.
pub async fn no_thread_is_left() {
    loop {
        let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return };
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        if !names.into_iter().any(|name| name.starts_with("forebay") || name.starts_with("actix")) {
            return;
        }
        tokio::task::yield_now().await;
    }
}
