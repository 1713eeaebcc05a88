//! So much in so long, and how a provider counts that.

use std::time::Duration;

use serde::Serialize;

/// The most that a rate may allow: keeps the limiters' arithmetic in whole nanoseconds.
const MOST: u64 = 1_000_000_000;
/// The longest period: what comes back later than in a year might as well not come back.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// So much in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// How many (requests or tokens) in each `per`.
    pub amount: u64,
    /// The period of `amount`.
    #[serde(rename = "per_seconds", serialize_with = "as_seconds")]
    pub per: Duration,
    /// How a provider tells whether there is room.
    #[serde(flatten)]
    pub counting: Counting,
}

/// How an amount in a period is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "counting", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Counting {
    /// A bucket that refills all the time, as OpenAI's headers imply.
    Bucket {
        /// How much time's worth a full one holds, and so may be used at once after a rest; always at least one.
        #[serde(rename = "burst_seconds", serialize_with = "as_seconds")]
        burst: Duration,
    },
    /// A log of the last period: what was granted comes back exactly one period later.
    Sliding,
    /// Windows that begin at fixed moments nobody tells, each with its share of the period's amount.
    Fixed {
        /// The length of a window: the period itself, or a part of it, as Azure has 10 s and 1 s windows of a limit per
        /// minute.
        #[serde(rename = "window_seconds", serialize_with = "as_seconds")]
        window: Duration,
    },
}

impl Rate {
    /// `amount` in each `per`: a bucket that holds one `per`'s worth.
    pub fn new(amount: u64, per: Duration) -> Self {
        Self { amount, per, counting: Counting::Bucket { burst: per } }
    }

    /// `amount` a second, a second's worth at once.
    pub fn per_second(amount: u64) -> Self {
        Self::new(amount, Duration::from_secs(1))
    }

    /// `amount` a minute, a minute's worth at once.
    pub fn per_minute(amount: u64) -> Self {
        Self::new(amount, Duration::from_secs(60))
    }

    /// The same rate as a bucket with this burst.
    #[must_use]
    pub fn with_burst(self, burst: Duration) -> Self {
        Self { counting: Counting::Bucket { burst }, ..self }
    }

    /// The same rate, counted over the last period.
    #[must_use]
    pub fn sliding(self) -> Self {
        Self { counting: Counting::Sliding, ..self }
    }

    /// The same rate, counted in fixed windows of one period.
    #[must_use]
    pub fn fixed(self) -> Self {
        self.in_windows(self.per)
    }

    /// The same rate, counted in fixed windows of this length, each with its share of the amount, rounded down.
    #[must_use]
    pub fn in_windows(self, window: Duration) -> Self {
        Self { counting: Counting::Fixed { window }, ..self }
    }

    /// The most that can be granted at once, which is what headers name as the limit: what a full bucket holds, the amount
    /// itself, or a window's share of it. At least one.
    pub fn capacity(&self) -> u64 {
        match self.counting {
            Counting::Bucket { burst } => self.worth(self.depth(burst)),
            Counting::Sliding => self.amount.max(1),
            Counting::Fixed { window } => self.worth(window.as_nanos()).max(1),
        }
    }

    /// What it grants a second in the long run. Of windows less than `amount / per` where their share had to be rounded.
    pub fn steady_per_second(&self) -> f64 {
        match self.counting {
            Counting::Fixed { window } => self.capacity() as f64 / window.as_secs_f64(),
            _ => self.amount as f64 / self.per.as_secs_f64(),
        }
    }

    /// The same rate of `factor` times the amount, rounded, at least one.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        // The cast saturates, and is 0 for a factor that is no number.
        Self { amount: ((self.amount as f64 * factor).round() as u64).clamp(1, MOST), ..self }
    }

    /// What is wrong with this rate, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MOST).contains(&self.amount) {
            return Err("a limit must be 1 to 1000000000; leave it out for none".to_owned());
        }
        if self.per.is_zero() || self.per > LONGEST {
            return Err("a limit's period must be above 0 and at most 365 days".to_owned());
        }
        match self.counting {
            Counting::Bucket { burst } if burst > LONGEST => Err("a burst must be at most 365 days' worth".to_owned()),
            Counting::Fixed { window } if window.is_zero() || window > self.per => Err(format!(
                "windows of {window:?} cannot share a limit per {:?}; they must be above 0 and at most as long as that",
                self.per
            )),
            Counting::Fixed { window } if self.worth(window.as_nanos()) == 0 => {
                Err(format!("{} per {:?} leave windows of {window:?} less than one", self.amount, self.per))
            }
            _ => Ok(()),
        }
    }

    /// The time a bucket of this burst takes to fill, in nanoseconds: long enough for one.
    pub(super) fn depth(&self, burst: Duration) -> u128 {
        burst.as_nanos().max(self.price(1))
    }

    /// How many nanoseconds of refill `cost` takes; rounded up, so that the rate is never exceeded.
    pub(super) fn price(&self, cost: u64) -> u128 {
        (u128::from(cost) * self.per.as_nanos()).div_ceil(u128::from(self.amount.max(1)))
    }

    /// How much comes in so many nanoseconds, rounded down.
    pub(super) fn worth(&self, nanos: u128) -> u64 {
        u64::try_from(nanos * u128::from(self.amount) / self.per.as_nanos().max(1)).unwrap_or(u64::MAX)
    }
}

/// Times in the ledger are seconds, with a fraction.
pub(super) fn as_seconds<S: serde::Serializer>(duration: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(duration.as_secs_f64())
}
