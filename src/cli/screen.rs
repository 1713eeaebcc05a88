//! Progress on stderr: one line rewritten in place on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

/// To the line's beginning, and clears it.
const WIPE: &str = "\r\x1b[K";

/// Where progress is shown.
pub(super) struct Screen {
    /// A terminal that can rewrite a line.
    live: bool,
    /// How often a line is worth showing where it stays.
    plain: Duration,
    /// A line stands there without its end.
    open: bool,
}

impl Screen {
    /// The process's stderr; where it is no terminal, a line each `plain`.
    pub(super) fn new(plain: Duration) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { live: io::stderr().is_terminal() && !dumb, plain, open: false }
    }

    /// How often a line is worth showing.
    pub(super) fn interval(&self) -> Duration {
        if self.live { Duration::from_millis(100) } else { self.plain }
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, line: &str) {
        let text = self.next(line);
        put(&text);
    }

    /// Shows how it ended; the next line goes below.
    pub(super) fn finish(&mut self, line: &str) {
        let text = self.last(line);
        put(&text);
    }

    /// Says something that stays, above the line that shows how far it is.
    pub(super) fn say(&mut self, line: &str) {
        self.wipe();
        put(&format!("{line}\n"));
    }

    /// Takes an unfinished line away.
    pub(super) fn wipe(&mut self) {
        if std::mem::take(&mut self.open) {
            put(WIPE);
        }
    }

    fn next(&mut self, line: &str) -> String {
        self.open = self.live;
        if self.live { format!("{WIPE}{line}") } else { format!("{line}\n") }
    }

    fn last(&mut self, line: &str) -> String {
        self.open = false;
        if self.live { format!("{WIPE}{line}\n") } else { format!("{line}\n") }
    }
}

/// Whoever started us may have closed stderr: that ends nothing.
fn put(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_s_line_is_rewritten_in_place_and_ended_once() {
        let mut screen = Screen { live: true, plain: Duration::ZERO, open: false };
        assert_eq!(screen.next("a") + &screen.next("b") + &screen.last("c"), "\r\x1b[Ka\r\x1b[Kb\r\x1b[Kc\n");
        assert!(!screen.open);
    }

    #[test]
    fn elsewhere_lines_are_plain_and_nothing_is_left_to_wipe() {
        let mut screen = Screen { live: false, plain: Duration::ZERO, open: false };
        assert_eq!(screen.next("a") + &screen.last("b"), "a\nb\n");
        assert!(!screen.open);
    }
}
