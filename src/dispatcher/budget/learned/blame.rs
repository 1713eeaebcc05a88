//! Which of two limits, of requests or of tokens, a silent provider refuses for.
//!
//! *Known* is how fast both went whenever it refused. Of the one that is limited it was always the same, and of the other it
//! differs, as calls do. *Believed* is that the one that differs clearly less is limited; where both differ alike nobody knows.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::Instant;
use crate::dispatcher::budget::sends::Counted;

/// So many refusals are compared, at least and at most.
const FEWEST: usize = 3;
const MOST: usize = 8;
/// Refusals within this time of the last are its echo.
const ECHO: Duration = Duration::from_secs(10);
/// By so much more the squares of the one must differ than those of the other.
const CLEARLY: f64 = 2.0;

/// What went per minute, at each refusal.
#[derive(Debug, Default)]
pub(super) struct Blame {
    refusals: VecDeque<(f64, f64)>,
    heard: Option<Instant>,
}

impl Blame {
    /// The provider refused when this went. What is refused behind it may be refused for the same still, and says nothing.
    pub(super) fn refused(&mut self, requests: f64, tokens: f64, now: Instant) {
        let is_echo = self.heard.replace(now).is_some_and(|heard| now < heard + ECHO);
        if !is_echo && requests > 0.0 && tokens > 0.0 {
            self.refusals.push_back((requests, tokens));
            if self.refusals.len() > MOST {
                self.refusals.pop_front();
            }
        }
    }

    /// The one that is limited, if that is known.
    pub(super) fn limited(&self) -> Option<Counted> {
        let spread = |of: &dyn Fn(&(f64, f64)) -> f64| {
            let logs: Vec<f64> = self.refusals.iter().map(|rates| of(rates).ln()).collect();
            let mean = logs.iter().sum::<f64>() / logs.len() as f64;
            logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>()
        };
        let (requests, tokens) = (spread(&|rates| rates.0), spread(&|rates| rates.1));
        match self.refusals.len() >= FEWEST {
            true if tokens > CLEARLY * requests => Some(Counted::Requests),
            true if requests > CLEARLY * tokens => Some(Counted::Tokens),
            _ => None,
        }
    }

    /// The most requests, or tokens, that went when it refused.
    pub(super) fn most(&self, counted: Counted) -> f64 {
        let of = |rates: &(f64, f64)| if counted == Counted::Requests { rates.0 } else { rates.1 };
        self.refusals.iter().map(of).fold(0.0, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn blamed(refusals: &[(f64, f64)], apart: Duration) -> Option<Counted> {
        let (mut now, mut blame) = (clock::now(), Blame::default());
        for (requests, tokens) in refusals {
            blame.refused(*requests, *tokens, now);
            now += apart;
        }
        blame.limited()
    }

    #[test]
    fn what_was_the_same_at_each_refusal_is_what_is_limited() {
        let refusals = [(230.0, 400_000.0), (300.0, 405_000.0), (190.0, 398_000.0), (240.0, 401_000.0)];
        let turned = refusals.map(|(requests, tokens)| (tokens, requests));
        assert_eq!(blamed(&refusals, ECHO), Some(Counted::Tokens));
        assert_eq!(blamed(&turned, ECHO), Some(Counted::Requests));
        assert_eq!(blamed(&refusals[..2], ECHO), None, "two are no evidence");
        assert_eq!(blamed(&refusals, ECHO / 2), None, "echoes say nothing");
        let alike = refusals.map(|(requests, _)| (requests, 1_500.0 * requests));
        assert_eq!(blamed(&alike, ECHO), None, "calls of one size");
    }
}
