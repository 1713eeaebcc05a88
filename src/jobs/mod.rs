//! The durable life of a request.

#[cfg_attr(not(test), expect(dead_code, reason = "whoever keeps the outbox is still to come"))]
mod webhook;
