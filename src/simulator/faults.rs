//! Which fault strikes which request. Pure: dice and numbers in, a decision out.
//!
//! A fault is named in flags (`--fault NAME=0.02`), in a request's own text (`[[fault:NAME x2]]`) and in the ledger
//! by the same word. Each fault fits whole answers and streams alike, or says here what it becomes where it does not.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Dice;

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// `reset`: the whole request is read, then the connection is reset (RST) without a byte of answer.
    Reset,
    /// `reset-unread`: reset as soon as the request's head is read, its body left unread.
    ResetUnread,
    /// `reset-body`: reset in the middle of the body; of a stream, after part of its content.
    ResetBody,
    /// `rate-limited`: 429 with `Retry-After`.
    RateLimited,
    /// `rate-limited-bare`: 429 that names no time.
    RateLimitedBare,
    /// `quota`: 429 `insufficient_quota`, which waiting does not cure.
    Quota,
    /// `status-NNN`: an error answer of that status, 400 to 599, in OpenAI's envelope.
    Status(u16),
    /// `redirect`: 307 to another path of this server.
    Redirect,
    /// `stall`: no answer at all; the connection stays open until the peer leaves.
    Stall,
    /// `stall-body`: stalls in the middle of the body.
    StallBody,
    /// `cut-body`: the connection ends (FIN) in the middle of the body: a whole answer short of its content-length, a
    /// stream short of its last chunk.
    CutBody,
    /// `cut-opening`: ends (FIN) after a stream's opening events, before any content. A whole answer is cut after its head.
    CutOpening,
    /// `cut-unframed`: a body framed by the connection's end alone, cut in its middle: HTTP cannot tell that it is short.
    CutUnframed,
    /// `unfinished`: a stream that ends cleanly, but without finish reason and terminal marker. A whole answer becomes `truncated-json`.
    Unfinished,
    /// `truncated-json`: complete HTTP around broken JSON; of a stream, in one of its events.
    TruncatedJson,
    /// `garbage`: bytes that are no HTTP, then the connection's end.
    Garbage,
    /// `informational`: a 103 at once, then the good answer: harmless to a client that knows HTTP.
    Informational,
    /// `hang-up`: the good answer, then the connection's end, though keep-alive was promised: the next call on it meets a reset.
    HangUp,
    /// `duplicate`: the good answer twice. Who uses the connection again takes the second for the next call's answer.
    Duplicate,
    /// `error-first`: a 200 stream that opens with an error event. A whole answer becomes `status-500`.
    ErrorFirst,
    /// `error-opening`: an error event after a stream's opening events, before any content. A whole answer becomes `status-500`.
    ErrorOpening,
    /// `error-midway`: an error event in the middle of a stream's content. A whole answer becomes `status-500`.
    ErrorMidway,
}

/// Every fault that has a name of its own; `status-NNN` comes on top.
const NAMED: [(Fault, &str); 21] = [
    (Fault::Reset, "reset"),
    (Fault::ResetUnread, "reset-unread"),
    (Fault::ResetBody, "reset-body"),
    (Fault::RateLimited, "rate-limited"),
    (Fault::RateLimitedBare, "rate-limited-bare"),
    (Fault::Quota, "quota"),
    (Fault::Redirect, "redirect"),
    (Fault::Stall, "stall"),
    (Fault::StallBody, "stall-body"),
    (Fault::CutBody, "cut-body"),
    (Fault::CutOpening, "cut-opening"),
    (Fault::CutUnframed, "cut-unframed"),
    (Fault::Unfinished, "unfinished"),
    (Fault::TruncatedJson, "truncated-json"),
    (Fault::Garbage, "garbage"),
    (Fault::Informational, "informational"),
    (Fault::HangUp, "hang-up"),
    (Fault::Duplicate, "duplicate"),
    (Fault::ErrorFirst, "error-first"),
    (Fault::ErrorOpening, "error-opening"),
    (Fault::ErrorMidway, "error-midway"),
];

impl Fault {
    /// Every fault with a name of its own, that is all but `status-NNN`.
    pub fn named() -> impl Iterator<Item = Fault> {
        NAMED.iter().map(|(fault, _)| *fault)
    }

    /// True when the request gets its good answer all the same: what it tests is what a client makes of the connection.
    pub fn is_harmless(self) -> bool {
        matches!(self, Fault::Informational | Fault::HangUp | Fault::Duplicate)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Fault::Status(status) = self {
            return write!(out, "status-{status}");
        }
        let name = NAMED.iter().find(|(fault, _)| fault == self).map_or("unnamed", |(_, name)| name);
        out.write_str(name)
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(status) = text.strip_prefix("status-") {
            return match status.parse::<u16>() {
                Ok(429) => Err("`status-429`: say `rate-limited`, `rate-limited-bare` or `quota`".to_owned()),
                Ok(status @ 400..=599) => Ok(Fault::Status(status)),
                _ => Err(format!("`{text}`: the status must be 400 to 599")),
            };
        }
        if let Some((fault, _)) = NAMED.iter().find(|(_, name)| *name == text) {
            return Ok(*fault);
        }
        let near =
            NAMED.iter().map(|(_, name)| (strsim::jaro_winkler(name, text), *name)).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.filter(|(likeness, _)| *likeness > 0.8).map(|(_, name)| format!("; did you mean `{name}`?"));
        Err(format!("unknown fault `{text}`{}", hint.unwrap_or_default()))
    }
}

/// How probable each fault is. At most one strikes a request, so the probabilities add up to at most 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Odds(Vec<(Fault, f64)>);

impl Odds {
    /// No faults.
    pub fn none() -> Self {
        Self::default()
    }

    /// The same odds with `fault` at `probability` (0.0 to 1.0; 0.0 takes it out).
    pub fn with(mut self, fault: Fault, probability: f64) -> Self {
        self.set(fault, probability);
        self
    }

    /// Sets `fault` to `probability` (0.0 to 1.0; 0.0 takes it out).
    pub fn set(&mut self, fault: Fault, probability: f64) {
        self.0.retain(|(other, _)| *other != fault);
        if probability != 0.0 {
            self.0.push((fault, probability));
        }
        // The order of the draw must not depend on the order in which the odds were set.
        self.0.sort_by_key(|(fault, _)| *fault);
    }

    /// The probability of `fault`.
    pub fn of(&self, fault: Fault) -> f64 {
        self.0.iter().find(|(other, _)| *other == fault).map_or(0.0, |(_, probability)| *probability)
    }

    /// What is wrong with these odds, if anything.
    pub fn check(&self) -> Result<(), String> {
        if let Some((fault, odd)) = self.0.iter().find(|(_, odd)| !(0.0..=1.0).contains(odd)) {
            return Err(format!("the probability of `{fault}` is {odd}; it must be 0 to 1"));
        }
        let sum: f64 = self.0.iter().map(|(_, probability)| probability).sum();
        // A hair of slack for sums such as ten times 0.1.
        if sum > 1.0 + 1e-9 {
            Err(format!("the faults' probabilities add up to {sum:.3}; at most 1 is possible"))
        } else {
            Ok(())
        }
    }

    /// The fault at `fraction` (0.0 to 1.0) of the whole.
    fn pick(&self, fraction: f64) -> Option<Fault> {
        let mut edge = 0.0;
        self.0
            .iter()
            .find(|(_, probability)| {
                edge += probability;
                fraction < edge
            })
            .map(|(fault, _)| *fault)
    }
}

/// What chance has decided about one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Draw {
    pub(super) fault: Option<Fault>,
    pub(super) latency: Duration,
}

/// The draw for the `arrival`th request: each has dice of its own, so that nothing but its number decides.
pub(super) fn draw(seed: u64, arrival: u64, odds: &Odds, latency: (Duration, Duration)) -> Draw {
    let mut dice = Dice::seeded(scatter(seed ^ scatter(arrival)));
    let fault = odds.pick(dice.fraction());
    let (least, most) = latency;
    Draw { fault, latency: least + dice.up_to(most.saturating_sub(least)) }
}

/// Spreads neighbouring numbers over the whole range (the finaliser of SplitMix64), as dice of neighbouring seeds are alike.
fn scatter(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One order in a request's own text: this fault, this many times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) times: u32,
    /// What `Retry-After` says, word for word; with `ms` at its end, what `retry-after-ms` says.
    pub(super) retry_after: Option<String>,
}

/// More orders than this in one text are refused.
const MAX_STEPS: usize = 32;

/// The orders in `text`: `[[fault:NAME]]`, `[[fault:NAME xN]]`, `[[fault:NAME=RETRY_AFTER xN]]`, one after the other.
pub(super) fn script(text: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("[[fault:") {
        rest = &rest[start + "[[fault:".len()..];
        let end = rest.find("]]").ok_or("`[[fault:` without `]]`")?;
        if steps.len() == MAX_STEPS {
            return Err(format!("more than {MAX_STEPS} `[[fault:…]]`"));
        }
        steps.push(step(rest[..end].trim())?);
        rest = &rest[end + 2..];
    }
    Ok(steps)
}

fn step(order: &str) -> Result<Step, String> {
    let counted = order.rsplit_once(' ').and_then(|(what, count)| Some((what.trim_end(), count.strip_prefix('x')?)));
    let (what, times) = match counted {
        Some((what, count)) => (what, count.parse().map_err(|_| format!("`x{count}` is not a count"))?),
        None => (order, 1),
    };
    let (name, value) = match what.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (what, None),
    };
    let fault = name.parse()?;
    if let Some(value) = value {
        if !matches!(fault, Fault::RateLimited | Fault::Status(_)) {
            return Err(format!("`{fault}` takes no value"));
        }
        // It becomes a header: nothing that could end one.
        if value.is_empty() || value.len() > 64 || value.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(format!("the value of `{fault}` must be 1 to 64 visible ASCII characters"));
        }
    }
    Ok(Step { fault, times, retry_after: value.map(str::to_owned) })
}

/// The order for the attempt with `earlier` attempts before it; `None` once all orders are carried out.
pub(super) fn due(steps: &[Step], earlier: u32) -> Option<&Step> {
    let mut edge = 0u32;
    steps.iter().find(|step| {
        edge = edge.saturating_add(step.times);
        earlier < edge
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LATENCY: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

    #[test]
    fn every_fault_reads_back_from_its_own_name() {
        for fault in Fault::named().chain([Fault::Status(400), Fault::Status(529)]) {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn a_misspelt_fault_gets_a_hint() {
        assert_eq!("stal".parse::<Fault>(), Err("unknown fault `stal`; did you mean `stall`?".to_owned()));
        assert!("status-200".parse::<Fault>().is_err());
        assert!("status-429".parse::<Fault>().unwrap_err().contains("rate-limited"));
    }

    #[test]
    fn the_same_seed_and_arrival_draw_the_same_whatever_was_drawn_before() {
        let odds = Odds::none().with(Fault::Reset, 0.2).with(Fault::Stall, 0.2);
        let latency = (Duration::from_millis(50), Duration::from_millis(250));
        let forwards: Vec<Draw> = (0..500).map(|n| draw(7, n, &odds, latency)).collect();
        let mut backwards: Vec<Draw> = (0..500).rev().map(|n| draw(7, n, &odds, latency)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert_ne!(forwards, (0..500).map(|n| draw(8, n, &odds, latency)).collect::<Vec<_>>());
        assert!(forwards.iter().all(|draw| draw.latency >= latency.0 && draw.latency <= latency.1));
    }

    #[test]
    fn faults_come_as_often_as_their_odds_say() {
        let odds = Odds::none().with(Fault::Reset, 0.02).with(Fault::Stall, 0.1);
        for seed in 0..5 {
            let draws: Vec<_> = (0..20_000).map(|n| draw(seed, n, &odds, NO_LATENCY).fault).collect();
            let count = |fault| draws.iter().filter(|drawn| **drawn == Some(fault)).count();
            assert!((300..=500).contains(&count(Fault::Reset)), "{} resets", count(Fault::Reset));
            assert!((1_850..=2_150).contains(&count(Fault::Stall)), "{} stalls", count(Fault::Stall));
        }
    }

    #[test]
    fn the_order_in_which_odds_are_set_changes_nothing() {
        let one = Odds::none().with(Fault::Stall, 0.1).with(Fault::Reset, 0.3);
        let other = Odds::none().with(Fault::Reset, 0.5).with(Fault::Reset, 0.3).with(Fault::Stall, 0.1);
        assert_eq!(one, other);
    }

    #[test]
    fn odds_that_cannot_be_are_refused() {
        assert!(Odds::none().with(Fault::Reset, 0.6).with(Fault::Stall, 0.5).check().is_err());
        assert!(Odds::none().with(Fault::Reset, -0.1).check().is_err());
        assert!(Odds::none().with(Fault::Reset, f64::NAN).check().is_err());
        let tenths = (400..410).fold(Odds::none(), |odds, status| odds.with(Fault::Status(status), 0.1));
        assert_eq!(tenths.check(), Ok(()));
    }

    #[test]
    fn a_text_orders_its_own_faults_in_sequence() {
        let steps = script("hello [[fault:reset x2]] and [[fault:rate-limited=0.3]] bye").unwrap();
        let names: Vec<String> =
            (0..4).map(|n| due(&steps, n).map_or("none".to_owned(), |step| step.fault.to_string())).collect();
        assert_eq!(names, ["reset", "reset", "rate-limited", "none"]);
        assert_eq!(due(&steps, 2).unwrap().retry_after.as_deref(), Some("0.3"));
        assert_eq!(script("no orders, not even [[this]]").unwrap(), []);
    }

    #[test]
    fn an_http_date_can_be_ordered_as_retry_after() {
        let steps = script("[[fault:status-503=Fri, 31 Dec 1999 23:59:59 GMT x3]]").unwrap();
        assert_eq!(steps[0].retry_after.as_deref(), Some("Fri, 31 Dec 1999 23:59:59 GMT"));
        assert_eq!((steps[0].fault, steps[0].times), (Fault::Status(503), 3));
    }

    #[test]
    fn a_broken_order_is_refused_and_not_ignored() {
        for text in [
            "[[fault:nonsense]]",
            "[[fault:reset",
            "[[fault:reset x-1]]",
            "[[fault:reset=3]]",
            "[[fault:rate-limited=]]",
            "[[fault:rate-limited=1\r\nx: y]]",
        ] {
            assert!(script(text).is_err(), "{text:?}");
        }
        assert!(script(&"[[fault:reset]]".repeat(33)).is_err());
    }
}
