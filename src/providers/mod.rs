//! Wire formats, pure: no socket, no clock, no actor.
//!
//! A request and an account become the bytes to send (`dialect`, a kind of upstream each), the bytes that come back become
//! an answer, a stream's next step (`sse`) or a [`Failure`](crate::messages::Failure) (`classify`); what is said of limits along
//! with them becomes a [`LimitReport`](crate::messages::LimitReport) (`limits`). Nothing here waits, and nothing here panics,
//! whatever the bytes.
//!
//! `batch_line` reads the lines of a batch and writes those of its output.
//!
//! Kinds that are translated share how a request is read (`fields`: each taken once, none overlooked; `losses`: what cannot
//! be said, and the caller's leave to drop it) and how OpenAI's answers are written (`openai/written`).

mod anthropic;
#[cfg(feature = "gateway")]
pub(crate) mod batch_line;
pub(crate) mod classify;
mod data_url;
pub(crate) mod dialect;
mod edits;
pub(crate) mod error_body;
#[cfg(test)]
mod examples;
mod fields;
mod gemini;
pub(crate) mod headers;
pub(crate) mod limits;
mod losses;
mod messages;
mod moments;
mod object;
mod openai;
mod outgoing;
mod pacific;
mod pushback;
pub(crate) mod sse;
pub(crate) mod tokens;
pub(crate) mod waits;
