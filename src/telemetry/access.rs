//! One line for each finished call.

use std::sync::Arc;

use crate::clock::{self, Instant};
use crate::messages::{CallId, Endpoint, Error, Meta};

/// A longer model name is cut in the log: it is the caller's text.
const MODEL_NAME_MAX_BYTES: usize = 128;

/// What the line says of a caller that hung up before the head went out; nginx's word for it.
const STATUS_CALLER_GONE: u16 = 499;

/// Collects what is to be said of one call and says it when dropped, so that no end of a call goes unlogged: a line
/// that nobody ended is that of a caller who hung up.
pub(crate) struct AccessLine {
    id: CallId,
    endpoint: Endpoint,
    start: Instant,
    tenant: Option<Arc<str>>,
    model: Option<Box<str>>,
    /// The caller's SDK says that it has tried so many times before.
    tried_before: Option<u32>,
    /// The status the caller was told; `None` until there is a head.
    status: Option<u16>,
    code: &'static str,
    meta: Meta,
    /// Whether the call came to its end, good or bad.
    ended: bool,
}

impl AccessLine {
    /// The line of a call that begins now.
    pub(crate) fn new(id: CallId, endpoint: Endpoint, tenant: Option<Arc<str>>) -> Self {
        Self {
            id,
            endpoint,
            start: clock::now(),
            tenant,
            model: None,
            tried_before: None,
            status: None,
            code: "ok",
            meta: Meta::default(),
            ended: false,
        }
    }

    /// The model asked for.
    pub(crate) fn set_model(&mut self, model: &str) {
        let mut end = model.len().min(MODEL_NAME_MAX_BYTES);
        while !model.is_char_boundary(end) {
            end -= 1;
        }
        self.model = Some(model[..end].into());
    }

    /// The caller's SDK tries again what it has tried so many times.
    pub(crate) fn set_tried_before(&mut self, times: u32) {
        self.tried_before = (times > 0).then_some(times);
    }

    /// A head with this status is on its way to the caller.
    pub(crate) fn set_status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// What is known of the call besides its answer.
    pub(crate) fn set_meta(&mut self, meta: &Meta) {
        self.meta = meta.clone();
    }

    /// The call has its whole answer.
    pub(crate) fn complete(&mut self) {
        self.ended = true;
    }

    /// The call ends with `error`. A status that the caller has been told already stays.
    pub(crate) fn fail(&mut self, error: &Error) {
        self.status.get_or_insert(error.status());
        self.code = error.code();
        // An error of a stream that broke late may know less than its head did.
        if error.meta().attempts >= self.meta.attempts {
            self.meta = error.meta().clone();
        }
        self.ended = true;
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let (status, code) = match (self.ended, self.status) {
            (true, status) => (status.unwrap_or_default(), self.code),
            (false, status) => (status.unwrap_or(STATUS_CALLER_GONE), "caller_gone"),
        };
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "forebay::access",
            request_id = %self.id,
            endpoint = self.endpoint.path(),
            tenant = self.tenant.as_deref(),
            model = self.model.as_deref(),
            upstream = self.meta.upstream.as_deref(),
            status,
            code,
            attempts = self.meta.attempts,
            tried_before = self.tried_before,
            queued_ms = millis(self.meta.queued),
            cost_usd = self.meta.cost_usd,
            total_ms = millis(clock::now().saturating_duration_since(self.start)),
            "call"
        );
    }
}
