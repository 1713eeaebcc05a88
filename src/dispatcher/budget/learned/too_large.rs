//! A call that is larger than a limit: waiting does not mend that.
//!
//! *Known* is it where the provider has refused one of that size for it ([`TooLarge`]), for an hour: limits are raised.
//! *Believed* is it of a call that is by far larger than a limit which is told. What is only somewhat larger goes when the
//! whole limit is there, and the provider judges: estimates are off.

use std::time::Duration;

use super::{Entered, Learned, Name, counted};
use crate::clock::Instant;
use crate::dispatcher::budget::sends::{Cost, Counted};
use crate::dispatcher::budget::told::Told;
use crate::dispatcher::budget::wait::Beyond;
use crate::messages::{BudgetReading, Dimension, LimitReport, Tokens};

/// A call so many times as large as a limit will not fit, however its estimate is off. What is less goes when the whole
/// limit is there, and the provider judges.
const SURELY: f64 = 1.3;

/// A call was too large by the provider's word where it is estimated at this share of the limit at least, and for so long:
/// the limit may be raised.
const LARGE: f64 = 0.5;
const TOO_LARGE_FOR: Duration = Duration::from_secs(3_600);

/// Calls that were too large for a budget by the provider's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLarge {
    pub(super) name: Name,
    pub(super) limit: u64,
    /// The smallest of them, as it was estimated.
    pub(super) least: u64,
    pub(super) until: Instant,
}

/// What a call was estimated to need, uncorrected: one that comes again is as large as it was.
fn estimated(tokens: Tokens, dimension: Dimension) -> u64 {
    Cost { requests: 1, input: tokens.input, output: tokens.output, reserved: 0 }.of(counted(dimension))
}

impl Learned {
    /// Whether a call is larger than a limit: by the provider's own word, or so much larger than it tells that an estimate is
    /// not off by that.
    pub(in super::super) fn never_fits(&self, tokens: Tokens, now: Instant) -> Option<Beyond> {
        let too_large = self.too_large.filter(|large| large.until > now);
        if let Some(TooLarge { name, limit, least, until }) = too_large
            && estimated(tokens, name.dimension) >= least
        {
            return Some(Beyond { counted: counted(name.dimension), limit, is_configured: false, until: Some(until) });
        }
        let cost = self.cost(tokens);
        let surely =
            |told: &Told| told.counted != Counted::Requests && cost.of(told.counted) as f64 > SURELY * told.limit();
        let (_, told) = self.told.iter().find(|(_, told)| surely(told))?;
        Some(Beyond { counted: told.counted, limit: told.limit() as u64, is_configured: false, until: None })
    }

    /// The provider says that a call of this size is more than its limit. Which that is, it has told now or before; what
    /// seems small beside it was refused for something else, and teaches nothing.
    pub(in super::super) fn too_large(&mut self, entered: &Entered, report: &LimitReport, now: Instant) {
        let told = self.told.iter().map(|(name, told)| (*name, told.limit() as u64));
        let said = report.budgets.iter().filter_map(|reading| Some((Name::of(reading), reading.limit?)));
        let share = |(name, limit): &(Name, u64)| estimated(entered.estimate, name.dimension) as f64 / *limit as f64;
        let of_tokens = said.chain(told).filter(|(name, _)| name.dimension != Dimension::Requests);
        let Some((name, limit)) = of_tokens.max_by(|one, other| share(one).total_cmp(&share(other))) else { return };
        if share(&(name, limit)) <= LARGE {
            return;
        }
        let known = self.too_large.filter(|large| large.name == name && large.until > now).map(|large| large.least);
        let least = estimated(entered.estimate, name.dimension);
        let least = known.map_or(least, |known| known.min(least));
        self.too_large = Some(TooLarge { name, limit, least, until: now + TOO_LARGE_FOR });
    }
}

/// Whether a call was refused for its tokens although next to all of a limit was left: it is the call that is too large.
pub(super) fn refused_whole(report: &LimitReport) -> bool {
    let is_whole = |reading: &BudgetReading| {
        let (Some(limit), Some(remaining)) = (reading.limit, reading.remaining) else { return false };
        reading.dimension != Dimension::Requests && remaining as f64 >= 0.9 * limit as f64
    };
    report.budgets.iter().any(is_whole)
}
