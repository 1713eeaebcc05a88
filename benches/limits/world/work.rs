//! What calls are like: how many tokens they really have, how many bytes that is, how long the provider takes.

use std::sync::LazyLock;

use forebay::clock::Dice;
use forebay::simulator::limits::Charge;

use super::chance::{lognormal, normal};

/// Bytes of text to a token, as tokenisers find in English chats with some code.
const BYTES_PER_TOKEN: f64 = 4.2;

/// How many deviations from that a text may be: none has fewer than three bytes to a token, as `providers/tokens.rs` finds.
const WIDEST: f64 = 2.8;

/// How long the longest service is.
const LONGEST_SERVICE: f64 = 60.0;

/// How much times to the first byte vary.
const FIRST_SIGMA: f64 = 0.4;

/// The calls of a scenario.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Median tokens of a prompt; lognormal of sigma 0.7.
    pub prompt: f64,
    /// The longest prompt.
    pub longest: f64,
    /// `max_tokens` of each call.
    pub answer: u64,
    /// The share of them that answers really have. What the provider charges is the reservation all the same.
    pub written: f64,
    /// Median seconds of service.
    pub service: f64,
    /// How much they vary: the sigma of a lognormal.
    pub spread: f64,
    /// Streams: median seconds until the first byte, with which the headers come. Otherwise both come at the end.
    pub first: Option<f64>,
    /// Relative deviation of bytes per token: how far off an estimate by bytes can be.
    pub noise: f64,
}

impl Work {
    /// Small calls, of which a limit on requests lets few through.
    pub const REQUESTS: Work = Work {
        prompt: 200.0,
        longest: 2_000.0,
        answer: 200,
        written: 1.0,
        service: 3.0,
        spread: 0.5,
        first: None,
        noise: 0.1,
    };

    /// Large calls of very different sizes, of which a limit on tokens lets few through.
    pub const TOKENS: Work = Work {
        prompt: 900.0,
        longest: 12_000.0,
        answer: 600,
        written: 1.0,
        service: 4.0,
        spread: 0.5,
        first: None,
        noise: 0.1,
    };

    /// The same, streamed: headers come early.
    pub const fn streamed(self) -> Work {
        Work { first: Some(0.5), ..self }
    }

    /// One call of this kind.
    pub fn draw(&self, dice: &mut Dice) -> Ask {
        let prompt = lognormal(dice, self.prompt, 0.7).clamp(20.0, self.longest);
        self.sized(prompt, dice)
    }

    /// One call with a prompt of this many tokens.
    pub fn sized(&self, prompt: f64, dice: &mut Dice) -> Ask {
        let noise = self.noise * normal(dice).clamp(-WIDEST, WIDEST);
        let bytes = prompt * BYTES_PER_TOKEN * (1.0 + noise);
        Ask {
            prompt: prompt as u64,
            answer: self.answer,
            written: (self.answer as f64 * self.written) as u64,
            bytes: bytes as usize,
            service: lognormal(dice, self.service, self.spread).min(LONGEST_SERVICE),
            first: self.first.map(|median| lognormal(dice, median, FIRST_SIGMA)),
        }
    }
}

/// One call as it really is.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Tokens of the prompt, as the provider counts them.
    pub prompt: u64,
    /// Its `max_tokens`.
    pub answer: u64,
    /// Tokens the answer will have.
    pub written: u64,
    /// Bytes of the prompt.
    pub bytes: usize,
    /// Seconds until the whole answer is there.
    pub service: f64,
    /// Seconds until the first byte of a stream.
    pub first: Option<f64>,
}

impl Ask {
    /// What a provider that counts in this way charges.
    pub fn charge(&self, how: Charge) -> u64 {
        how.tokens(self.prompt, self.written, Some(self.answer))
    }

    /// The body of the call, a chat.
    pub fn body(&self) -> String {
        /// Words of ordinary lengths, as long as any prompt of a scenario.
        static TEXT: LazyLock<String> =
            LazyLock::new(|| "calls that wait their turn instead of failing, one behind the other, ".repeat(90_000));
        let stream = if self.first.is_some() { r#""stream":true,"# } else { "" };
        let text = &TEXT[..self.bytes.min(TEXT.len())];
        format!(
            r#"{{"model":"m",{stream}"max_tokens":{},"messages":[{{"role":"user","content":"{text}"}}]}}"#,
            self.answer
        )
    }

    /// What the provider says it used.
    pub fn usage(&self) -> String {
        format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}"#,
            self.prompt,
            self.written,
            self.prompt + self.written
        )
    }
}
