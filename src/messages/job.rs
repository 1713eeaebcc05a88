//! Requests that are accepted durably: what is asked of one, their ids, and where they stand.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Priority, Request};

/// A request that can wait: once accepted it is never lost, and ends with exactly one result.
#[derive(Clone, Debug)]
pub struct Job {
    request: Request,
    webhook: Option<Arc<str>>,
    key: Option<Arc<str>>,
    timeout: Option<Duration>,
    at_most_once: bool,
}

impl Job {
    /// A job that makes `request`: with low priority and within 24 hours, unless the request says otherwise.
    pub fn new(request: Request) -> Self {
        Self { request, webhook: None, key: None, timeout: None, at_most_once: false }
    }

    /// Has its end told to this URL, signed with `[jobs] webhook_secret`.
    #[must_use]
    pub fn webhook(mut self, url: impl Into<Arc<str>>) -> Self {
        self.webhook = Some(url.into());
        self
    }

    /// The caller's own name for it: the same key and request again is the same job, as long as that is kept.
    #[must_use]
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long it may take, waiting included: 1 ms to 365 days.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Never makes an attempt again that the upstream may have worked on: when its answer is lost, the job ends as
    /// [`JobStatus::Unknown`]. Without this a crash may repeat the call that was under way.
    #[must_use]
    pub fn at_most_once(mut self) -> Self {
        self.at_most_once = true;
        self
    }

    pub(crate) fn request(&self) -> &Request {
        &self.request
    }

    pub(crate) fn told_webhook(&self) -> Option<&Arc<str>> {
        self.webhook.as_ref()
    }

    pub(crate) fn told_key(&self) -> Option<&Arc<str>> {
        self.key.as_ref()
    }

    pub(crate) fn told_timeout(&self) -> Option<Duration> {
        self.timeout.or(self.request.timeout())
    }

    pub(crate) fn priority(&self) -> Priority {
        self.request.told_priority().unwrap_or(Priority::Low)
    }

    pub(crate) fn is_at_most_once(&self) -> bool {
        self.at_most_once
    }
}

/// Defines an id that a store gives out: a number, shown with a prefix. It begins with a number that each store rolls once, so
/// that an id of a store that was lost names nothing in the next one.
macro_rules! stored_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(i64);

        impl $name {
            /// The id of this number; never negative.
            pub(crate) fn of(number: i64) -> Self {
                debug_assert!(number >= 0);
                Self(number)
            }

            #[cfg_attr(not(feature = "sqlite"), allow(dead_code))] // for rows
            /// Its number; later ids of one store are greater.
            pub(crate) fn number(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:016x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NoId;

            /// Takes an id exactly as it is shown.
            fn from_str(text: &str) -> Result<Self, NoId> {
                let digits = text.strip_prefix($prefix).filter(|digits| digits.len() == 16).ok_or(NoId)?;
                if !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
                    return Err(NoId);
                }
                i64::from_str_radix(digits, 16).map(Self).map_err(|_| NoId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

stored_id!(
    /// A durable job, shown as `job_…`.
    JobId,
    "job_"
);
stored_id!(
    /// A file of batch lines, shown as `file-…`.
    FileId,
    "file-"
);
stored_id!(
    /// A batch, shown as `batch_…`.
    BatchId,
    "batch_"
);

/// What was given is no id of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoId;

/// Where a job stands, as it is told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobStatus {
    /// Waits for its first attempt.
    Queued,
    /// An attempt is under way.
    Running,
    /// Waits for another attempt.
    Retrying,
    /// Has its result.
    Succeeded,
    /// Has its error.
    Failed,
    /// Called off.
    Cancelled,
    /// Its time was up.
    Expired,
    /// At most once was asked for, the request was sent, and the answer was lost.
    Unknown,
}

impl JobStatus {
    /// Every status.
    pub const ALL: [JobStatus; 8] = [
        JobStatus::Queued,
        JobStatus::Running,
        JobStatus::Retrying,
        JobStatus::Succeeded,
        JobStatus::Failed,
        JobStatus::Cancelled,
        JobStatus::Expired,
        JobStatus::Unknown,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            JobStatus::Queued => "queued",
            JobStatus::Running => "running",
            JobStatus::Retrying => "retrying",
            JobStatus::Succeeded => "succeeded",
            JobStatus::Failed => "failed",
            JobStatus::Cancelled => "cancelled",
            JobStatus::Expired => "expired",
            JobStatus::Unknown => "unknown",
        }
    }

    /// Whether it stays so.
    pub fn is_end(self) -> bool {
        !matches!(self, JobStatus::Queued | JobStatus::Running | JobStatus::Retrying)
    }
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_shown_and_in_no_other_spelling() {
        let id = JobId::of(0x12_3456_789a_bcde);
        assert_eq!(id.to_string(), "job_00123456789abcde");
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in
            ["", "job_", "job_123456789abcde", "job_00123456789ABCDE", "job_+0123456789abcde", "file-00123456789abcde"]
        {
            assert_eq!(other.parse::<JobId>(), Err(NoId), "{other}");
        }
        assert_eq!("job_ffffffffffffffff".parse::<JobId>(), Err(NoId), "no number of a row");
    }
}
