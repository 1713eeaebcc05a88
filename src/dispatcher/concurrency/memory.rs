//! What is known of how many an account takes at once: in words, and as it is kept over a restart.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Concurrency, FIRST_WAIT, Growth, LONGEST_WAIT, SANE};
use crate::clock::{self, Instant};

/// What is worth keeping over a restart.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Learned {
    pub(super) limit: usize,
    /// It was still growing, up to here.
    pub(super) growing_until: Option<usize>,
    pub(super) refused_at: Option<usize>,
    /// From the moment of remembering.
    pub(super) probe_in: Duration,
    pub(super) probe_wait: Duration,
    /// The knee's limit.
    pub(super) knee: Option<usize>,
}

impl Concurrency {
    /// How many at once it was found to take; `None` while nothing but the upper bound keeps it.
    pub(crate) fn found(&self) -> Option<usize> {
        let window = self.window();
        let is_bound = window < self.limit || (self.refused_at.is_some() && !self.is_growing());
        (is_bound && window < self.most).then_some(window)
    }

    /// What is known, for the account's line in words.
    pub(crate) fn in_words(&self) -> String {
        let window = self.window();
        let how = match (self.refused_at, self.growth) {
            _ if window == self.most => "the configured most".to_owned(),
            _ if window < self.limit => "learned; with more its answers become slow".to_owned(),
            (Some(at), Growth::Fast { .. }) => format!("growing; the last refusal was at {at}"),
            (Some(at), _) => format!("learned; the last refusal was at {at}"),
            (None, _) => "growing; none was refused so far".to_owned(),
        };
        format!("takes {window} at once ({how})")
    }

    /// What is worth keeping.
    pub(crate) fn remember(&self, now: Instant) -> Learned {
        Learned {
            limit: self.limit,
            growing_until: match self.growth {
                Growth::Fast { until } => Some(until),
                Growth::Checking | Growth::Creeping => None,
            },
            refused_at: self.refused_at,
            probe_in: self.probe_at.saturating_duration_since(now),
            probe_wait: self.probe_wait,
            knee: Some(self.knee.limit()).filter(|limit| *limit < usize::MAX),
        }
    }

    /// Takes up what was remembered. Nonsense is bounded, not believed.
    pub(crate) fn recall(&mut self, learned: Learned, now: Instant) {
        self.probe = None;
        self.limit = learned.limit.clamp(1, SANE);
        self.growth = learned.growing_until.map_or(Growth::Creeping, |until| Growth::Fast { until });
        self.refused_at = learned.refused_at;
        self.probe_wait = learned.probe_wait.clamp(FIRST_WAIT, LONGEST_WAIT);
        self.probe_at = clock::after(now, learned.probe_in.min(self.probe_wait));
        self.knee.recall(learned.knee.map(|limit| limit.clamp(1, SANE)));
    }
}
