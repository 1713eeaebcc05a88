//! One attempt, as the number in flight sees it: whether it may start, what is kept with it, how it ends.

use std::time::Duration;

use crate::clock::Instant;
use crate::dispatcher::knee::Sample;

/// Whether one more may start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Room {
    Go,
    /// Then a probe is due: ask again. An attempt that ends, or is heard of, may make room sooner.
    At(Instant),
    /// When an attempt in flight ends, or is heard of.
    WhenOneEnds,
}

/// Kept with an attempt from [`Concurrency::started`] until [`Concurrency::ended`].
#[must_use = "every mark comes back through `ended`"]
#[derive(Debug)]
pub(crate) struct Mark {
    pub(super) number: u64,
    pub(super) sent: Instant,
    /// In flight at its start, itself among them.
    pub(super) load: usize,
    /// Of those the ones that were surely at the server before it.
    pub(super) sure_load: usize,
    /// It filled the window, or went beyond it.
    pub(super) is_top: bool,
    pub(super) is_heard: bool,
    pub(super) sample: Sample,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum End {
    /// It was answered, well or badly, by a server that did work for it. `took` says how long that was in whatever way
    /// shows a queue best (a stream: until its first event), the same way for all attempts of one kind; `None` where it
    /// says nothing of a queue, and for accounts whose limits the provider tells. It counts once: not again if
    /// [`Concurrency::heard`] was given it.
    Answered { took: Option<Duration> },
    /// A 429 that names no time. `rate_is_suspect`: what was sent lately comes near a limit that is known or learned.
    Rejected { rate_is_suspect: bool },
    /// The connection could not be made, or was lost.
    Lost,
    /// 503 or 529: too much for the server, whoever sent it.
    Overloaded,
    /// It says nothing of how many: cancelled, a 429 that names a time, a request that was refused for what it is.
    Unrelated,
}
