//! The desks as the calls of one priority and model group see them: those that may be open, the least crowded first, and
//! those that are known to be shut, by when to look again. So a decision looks at few of many desks.
//!
//! What shuts a desk is what its budget said to a call, and that holds until the time it named or until the desk has
//! changed, for calls that ask for as much at least. It is kept with what was asked for: a call that asks for less looks
//! anew, which a row of calls of any sizes does about as often as the logarithm of their number.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::touched::{AsOf, Touched};
use super::{Desk, ROUNDING, Way};
use crate::clock::Instant;
use crate::dispatcher::ask::Ask;
use crate::dispatcher::budget::{Crowd, Ready};
use crate::messages::Tokens;

/// How a desk stands to these calls.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// It may be open; so crowded.
    Open(Crowd),
    /// To calls that ask for so much at least.
    Shut(Tokens, Ready),
}

#[derive(Debug, Default)]
pub(super) struct View {
    seen: AsOf,
    stands: Vec<Option<Stand>>,
    /// By their crowd.
    open: BTreeSet<(Crowd, usize)>,
    /// When the shut ones are looked at again.
    looks: BTreeSet<(Instant, usize)>,
    /// What the shut ones are shut to.
    inputs: BTreeSet<(u64, usize)>,
    outputs: BTreeSet<(u64, usize)>,
    /// Of the shut ones, those that go on to be so until a time or an attempt's end, and those whose key rests.
    waiting: usize,
    resting: usize,
}

fn look_at(ready: Ready) -> Option<Instant> {
    match ready {
        Ready::At(at, _) | Ready::Resting(at, _) => Some(at),
        Ready::Never(beyond) => beyond.until,
        Ready::Now | Ready::WhenOneEnds => None,
    }
}

impl View {
    pub(super) fn new(desks: usize) -> Self {
        Self { stands: vec![None; desks], ..Self::default() }
    }

    /// Where a call that asks for this can go now, of the desks that are not `kept` from it.
    pub(super) fn way(
        &mut self,
        desks: &mut [Desk],
        touched: &Touched,
        now: Instant,
        ask: &Ask,
        kept: impl Fn(usize) -> bool,
    ) -> Way {
        self.catch_up(desks, touched, now, ask.tokens);
        let (mut last, mut keeps) = (None, false);
        while let Some(&(crowd, desk)) = self.open_behind(last) {
            last = Some((crowd, desk));
            match desks[desk].says(now, ask) {
                Ready::Now if kept(desk) => keeps = true,
                Ready::Now => return Way::Open(desk),
                shut => self.put(desk, Stand::Shut(ask.tokens, shut)),
            }
        }
        // Each may be shut to this call for another reason than to the smaller one that was asked about; for ever, even.
        if desks.iter_mut().all(|desk| matches!(desk.budget.ready(now, ask), Ready::Never(_))) {
            return Way::Closed;
        }
        let waits = keeps || self.waiting > 0;
        match self.looks.first() {
            // A key that will have rested is a way, too, while another keeps the call waiting.
            Some((at, _)) if waits => Way::Later(*at),
            _ if waits => Way::Busy,
            _ if self.resting > 0 => Way::Resting,
            _ => Way::Closed,
        }
    }

    /// Takes for open what may no longer be shut to calls that ask for `tokens`.
    fn catch_up(&mut self, desks: &[Desk], touched: &Touched, now: Instant, tokens: Tokens) {
        let open = |view: &mut Self, desk: usize| view.put(desk, Stand::Open(desks[desk].budget.crowd()));
        for desk in touched.since(&mut self.seen) {
            open(self, desk);
        }
        while let Some(&(_, desk)) = self.looks.first().filter(|(at, _)| *at <= now + ROUNDING) {
            open(self, desk);
        }
        while let Some(&(_, desk)) = self.inputs.last().filter(|(input, _)| *input > tokens.input) {
            open(self, desk);
        }
        while let Some(&(_, desk)) = self.outputs.last().filter(|(output, _)| *output > tokens.output) {
            open(self, desk);
        }
    }

    fn open_behind(&self, last: Option<(Crowd, usize)>) -> Option<&(Crowd, usize)> {
        self.open.range((last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)).next()
    }

    /// A desk stands otherwise from now on.
    fn put(&mut self, desk: usize, stand: Stand) {
        match self.stands[desk].replace(stand) {
            Some(Stand::Open(crowd)) => _ = self.open.remove(&(crowd, desk)),
            Some(Stand::Shut(tokens, ready)) => {
                self.inputs.remove(&(tokens.input, desk));
                self.outputs.remove(&(tokens.output, desk));
                if let Some(at) = look_at(ready) {
                    self.looks.remove(&(at, desk));
                }
                if let Some(count) = self.count(ready) {
                    *count -= 1;
                }
            }
            None => {}
        }
        match stand {
            Stand::Open(crowd) => _ = self.open.insert((crowd, desk)),
            Stand::Shut(tokens, ready) => {
                self.inputs.insert((tokens.input, desk));
                self.outputs.insert((tokens.output, desk));
                if let Some(at) = look_at(ready) {
                    self.looks.insert((at, desk));
                }
                if let Some(count) = self.count(ready) {
                    *count += 1;
                }
            }
        }
    }

    fn count(&mut self, ready: Ready) -> Option<&mut usize> {
        match ready {
            Ready::At(..) | Ready::WhenOneEnds => Some(&mut self.waiting),
            Ready::Resting(..) => Some(&mut self.resting),
            Ready::Now | Ready::Never(_) => None,
        }
    }
}
