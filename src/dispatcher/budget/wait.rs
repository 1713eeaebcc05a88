//! Why a call cannot go to an account now, in words for its caller and the operator: which budget, whose limit, what is
//! left of it.

use std::fmt;
use std::time::Duration;

use super::learned::Why;
use super::rest::Rest;
use super::sends::Counted;
use crate::clock::Instant;
use crate::messages::Period;

/// What keeps a call until its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// The upstream said when to come again.
    Held,
    /// A cap of the user's.
    Cap { counted: Counted, per_minute: u64, left: u64 },
    /// A limit that the provider tells of.
    Told { counted: Counted, limit: u64, left: u64, period: Duration },
    /// A limit that is guessed: learned from refusals, or the user's cap in its place.
    Guessed { counted: Counted, per_minute: u64, why: Why },
    /// The provider refuses faster growth than to so many requests per minute.
    Growth { per_minute: u64 },
    /// The quota of the model's day is used up.
    DayUsedUp,
    /// There is room, but calls of low priority leave it to others and come evenly.
    Paced,
    /// After a hold, an account of unknown limits starts slowly.
    Ramp,
    /// One more at once is tried later: the upstream refused so many not long ago.
    Probe { at_once: usize },
}

impl Wait {
    /// In a word.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Wait::Held => "held",
            Wait::Cap { .. } => "cap",
            Wait::Told { .. } => "told",
            Wait::Guessed { .. } => "guessed",
            Wait::Paced => "paced",
            Wait::Growth { .. } => "growth",
            Wait::DayUsedUp => "day",
            Wait::Ramp => "ramp",
            Wait::Probe { .. } => "probe",
        }
    }
}

/// When a call may go to an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Now,
    /// Then at the earliest, and what keeps it until then.
    At(Instant, Wait),
    /// When an attempt in flight ends.
    WhenOneEnds,
    /// The key rests until then.
    Resting(Instant, Rest),
    /// It needs more than a limit ever allows.
    Never(Beyond),
}

/// A limit that a single call is larger than.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Beyond {
    pub(crate) counted: Counted,
    pub(crate) limit: u64,
    /// The user's own.
    pub(crate) is_configured: bool,
    /// Believed until then.
    pub(crate) until: Option<Instant>,
}

impl Counted {
    /// The cap's key in the configuration.
    pub(super) fn key(self) -> &'static str {
        if self == Counted::Requests { "requests_per_minute" } else { "tokens_per_minute" }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counted::Requests => "requests",
            Counted::Tokens | Counted::TokensReserved => "tokens",
            Counted::Input => "input tokens",
            Counted::Output | Counted::OutputReserved => "output tokens",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::Held => f.write_str("held by the upstream's own word (Retry-After)"),
            Wait::Cap { counted, per_minute, left } => {
                write!(f, "of its {} of {per_minute} (configured) {left} are left", counted.key())
            }
            Wait::Told { counted, limit, left, period } => {
                let period = Period(*period);
                write!(f, "of the provider's {limit} {counted} per {period} (learned) {left} are left")
            }
            Wait::Guessed { counted, per_minute, why } => {
                let whose = match why {
                    Why::Cap => {
                        "as many as are configured; the provider does not tell its limit, and refused none so far"
                    }
                    Why::Guessed => "a limit the provider does not tell, learned from its refusals",
                    Why::Hidden => "a shorter window the provider does not tell of, learned from its refusals",
                };
                write!(f, "some {per_minute} {counted} per minute ({whose}) are used up for now")
            }
            Wait::Growth { per_minute } => {
                write!(
                    f,
                    "the provider refuses to have it grow faster than to {per_minute} requests per minute for now (learned)"
                )
            }
            Wait::DayUsedUp => f.write_str("the provider's quota of the day is used up for this model"),
            Wait::Paced => f.write_str("calls of low priority are spread evenly and leave room for others"),
            Wait::Ramp => f.write_str("it starts slowly after a hold"),
            Wait::Probe { at_once } => {
                write!(f, "it takes {at_once} at once (learned from its refusals); one more is tried later")
            }
        }
    }
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Beyond { counted, limit, is_configured, .. } = self;
        if *is_configured {
            write!(f, "more than {} of {limit} (configured) ever allows", counted.key())
        } else {
            write!(f, "more than the provider's limit of {limit} {counted} (learned) ever allows")
        }
    }
}
