//! Crashes planted on purpose, at places that no script of a transport reaches. What is planted is written in the text
//! that passes by.

use std::time::Duration;

use actix::prelude::*;

use super::request_actor::RequestActor;
use crate::messages::RunAttempt;

fn says(text: &[u8], what: &str) -> bool {
    memchr::memmem::find(text, what.as_bytes()).is_some()
}

/// The first attempt of a request that says so panics in the actor's handler, or has its actor terminated later.
pub(super) fn handling(attempt: &RunAttempt, ctx: &mut Context<RequestActor>) {
    let body = attempt.request.body().bytes();
    if attempt.id.number > 1 {
        return;
    }
    assert!(!says(body, "panic in the handler"), "a planted panic in a handler");
    if says(body, "terminate the actor") {
        ctx.run_later(Duration::from_millis(50), |_, ctx| ctx.terminate());
    }
}

/// An answer that says so panics while it is read.
pub(super) fn decoding(text: &[u8]) {
    assert!(!says(text, "panic while decoding"), "a planted panic while decoding");
}
