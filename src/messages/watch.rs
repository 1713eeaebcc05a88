//! How the death of an actor that holds the system together is noticed: by its own `Drop`, whatever it died of.

use actix::prelude::*;

/// The actors that hold the system together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Dispatcher,
    Supervisor,
    Jobs,
}

/// A part of the system to its root: I have died.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct PartGone {
    /// Which assembly of the system it was a part of, or which of the jobs' actors it was: one that has been replaced already is
    /// no news.
    pub(crate) assembly: u32,
    pub(crate) part: Part,
}

/// Kept by such an actor as a field. Must never panic: it is dropped while a panic unwinds.
pub(crate) struct DeathWatch {
    root: Recipient<PartGone>,
    gone: PartGone,
}

impl DeathWatch {
    pub(crate) fn new(root: Recipient<PartGone>, assembly: u32, part: Part) -> Self {
        Self { root, gone: PartGone { assembly, part } }
    }

    /// The watch over another part of the same assembly.
    pub(crate) fn over(&self, part: Part) -> Self {
        Self::new(self.root.clone(), self.gone.assembly, part)
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        self.root.do_send(self.gone);
    }
}
