//! What the callers saw: how each call ended.

/// What a call was lost to. The order is the table's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Loss {
    /// The connection broke before the answer was complete.
    Reset,
    /// No answer in the time a caller waits.
    Timeout,
    /// 429, whoever's: the provider's limit, or its mood.
    Refused,
    /// 500 and above.
    Broken,
    /// Anything else, with which nobody reckons here.
    Other,
}

impl Loss {
    /// Every kind, in the table's order.
    pub(super) const ALL: [Loss; 5] = [Loss::Reset, Loss::Timeout, Loss::Refused, Loss::Broken, Loss::Other];

    /// What an error status means to a caller.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            429 => Loss::Refused,
            500..=599 => Loss::Broken,
            _ => Loss::Other,
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// With the answer to its own prompt.
    Answered,
    /// With an answer to something else.
    MixedUp,
    /// Without any.
    Lost(Loss),
}

/// All ends of one run.
#[derive(Clone, Default, Debug)]
pub(super) struct Tally {
    ends: Vec<(String, Fate)>,
    answered: u64,
    mixed_up: u64,
    lost: [u64; Loss::ALL.len()],
}

impl Tally {
    /// Enters the end of the call that asked `prompt`.
    pub(super) fn enter(&mut self, prompt: String, fate: Fate) {
        match fate {
            Fate::Answered => self.answered += 1,
            Fate::MixedUp => self.mixed_up += 1,
            Fate::Lost(loss) => self.lost[loss as usize] += 1,
        }
        self.ends.push((prompt, fate));
    }

    /// Each call's prompt and end.
    pub(super) fn ends(&self) -> impl Iterator<Item = (&str, Fate)> {
        self.ends.iter().map(|(prompt, fate)| (prompt.as_str(), *fate))
    }

    /// Calls that have ended.
    pub(super) fn calls(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Calls with their own answer.
    pub(super) fn answered(&self) -> u64 {
        self.answered
    }

    /// Calls with another's answer.
    pub(super) fn mixed_up(&self) -> u64 {
        self.mixed_up
    }

    /// Calls without an answer.
    pub(super) fn lost(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Calls lost to `loss`.
    pub(super) fn lost_to(&self, loss: Loss) -> u64 {
        self.lost[loss as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_counted_once_and_where_it_belongs() {
        let mut tally = Tally::default();
        let losses = [200, 404, 429, 500, 503, 529].map(|status| Fate::Lost(Loss::of_status(status)));
        for fate in [Fate::Answered, Fate::MixedUp, Fate::Lost(Loss::Reset)].into_iter().chain(losses) {
            tally.enter("a prompt".to_owned(), fate);
        }
        assert_eq!((tally.calls(), tally.answered(), tally.mixed_up(), tally.lost()), (9, 1, 1, 7));
        assert_eq!(Loss::ALL.map(|loss| tally.lost_to(loss)), [1, 0, 1, 3, 2]);
    }
}
