//! Google's Gemini API: chats in OpenAI's format translated both ways.
//!
//! What Gemini says and OpenAI's protocol has no words for is kept where Google's own OpenAI face keeps it, in
//! `extra_content.google` of the message: signatures of thoughts, parts that are no text (an image, code that was run), what
//! was cited or searched, and the finish reason in Gemini's word where OpenAI's says less.

mod answer;
mod config;
mod contents;
mod encode;
mod error;
mod extra;
mod finish;
mod logprobs;
mod messages;
mod model;
mod parts;
mod stream;
mod tools;
mod usage;
mod whole;

use bytes::Bytes;

pub(crate) use encode::encode;

use super::dialect::{Answers, Events};
use crate::messages::Usage;

/// Answers of Gemini's, which their callers get in OpenAI's format.
#[derive(Clone, Debug)]
struct Translated {
    /// When the request was made, in unix seconds: Gemini does not say.
    created: u64,
    /// The model asked for, where the answer does not name its own.
    model: String,
    /// The caller wants the usage chunk.
    tells_usage: bool,
}

impl Answers for Translated {
    fn whole(&self, body: Bytes) -> Result<(Bytes, Option<Usage>), String> {
        whole::translated(self, &body)
    }

    fn events(&self) -> Box<dyn Events> {
        Box::new(stream::StreamReader::new(self.clone()))
    }

    fn error_in(&self, body: &Bytes) -> Option<(Bytes, Option<u16>)> {
        error::in_answer(body)
    }

    fn error(&self, body: Bytes) -> Bytes {
        error::enveloped(&body).0
    }
}

#[cfg(test)]
mod tests;
