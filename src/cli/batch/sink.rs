//! Where the lines go that have ended: files that a rerun resumes from, or stdout, which is gone when it is written.

use std::io::{self, Write as _};

use super::output::Output;
use super::plan::Key;

/// OUT.
pub(super) enum Sink {
    Files(Box<Output>),
    Stdout,
}

impl Sink {
    /// Whether a run before has the answer already.
    pub(super) fn is_answered(&self, id: u128) -> bool {
        match self {
            Self::Files(output) => output.is_answered(id),
            Self::Stdout => false,
        }
    }

    /// Adds a line, its end included.
    pub(super) fn add(&mut self, key: Key, is_answer: bool, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Files(output) => output.add(key, is_answer, line),
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(line).and_then(|()| out.flush())
            }
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Files(output) => output.partial().display().to_string(),
            Self::Stdout => "stdout".to_owned(),
        }
    }
}
