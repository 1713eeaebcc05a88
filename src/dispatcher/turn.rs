//! Whose turn it is: which of an upstream's waiting calls goes next, and to which account.
//!
//! By priority, then by arrival, with these exceptions, all for calls that cannot go now:
//!
//! - Each model group has queues of its own: what one model has used up keeps no other's calls.
//! - Of the first [`AHEAD`] of a queue the first that fits goes. One that is too large for what is left now holds nobody.
//! - A first that was passed [`PATIENCE`] times by calls that took what it waits for is not passed any more: an account is
//!   chosen for it, where it will fit soonest, and that account's budget is left to gather until it has gone. Calls of
//!   higher priority are before it in any case, and other models' calls go on unless it waits for what all share.
//!
//! So each call goes in the end: as the first of its queue it is passed so often and no more, and to become the first it
//! waits for those before it only.
//!
//! A look at a line asks for each queue, however many wait in it, and for few of the accounts, however many there are.

use super::ask::{Ask, Group};
use super::budget::{Ready, Wait};
use super::desks::Way;
use super::lane::Lane;
use super::line::Place;
use crate::clock::Instant;
use crate::messages::CallId;

/// How many of a queue are looked at.
pub(super) const AHEAD: usize = 16;

/// How often the first of a queue is passed.
pub(super) const PATIENCE: u32 = 64;

/// What a look at a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// This call goes, to this desk.
    Goes { place: Place, group: Group, desk: usize },
    /// This call can go nowhere: every key rests.
    Resting(CallId),
    /// This call can never go: it needs more tokens than any cap allows, or no account is left.
    Closed(CallId),
    /// Nobody goes: until then at the earliest, if it is known, and otherwise until an attempt ends.
    Nobody(Option<Instant>),
}

/// What a look at one queue says.
enum Look {
    /// This call may go, to this desk.
    Goes(Place, usize),
    /// Nobody, and a desk is left to gather for the first.
    Keeps,
    Nobody,
    /// The first can go nowhere: every key rests.
    Resting,
    /// The first can never go.
    Closed,
}

/// One walk through a line, from the front: each queue is looked at once its first is reached.
#[derive(Default)]
pub(super) struct Round {
    /// The first of the last queue that was looked at.
    behind: Option<Place>,
    /// The firsts of queues from which nobody goes, in order; of many the first few.
    stuck: Vec<(Place, Group, Ask)>,
    kept: Vec<Kept>,
    /// When to look again.
    later: Option<Instant>,
}

/// A desk that is left to gather for a call.
#[derive(Clone, Copy)]
struct Kept {
    place: Place,
    desk: usize,
    /// Whose calls behind it must leave the desk alone; everybody's when `None`.
    from: Option<Group>,
}

impl Round {
    fn keeps(&self, desk: usize, place: Place, group: Group) -> bool {
        let applies = |kept: &Kept| kept.desk == desk && kept.place < place;
        self.kept.iter().any(|kept| applies(kept) && kept.from.is_none_or(|from| from == group))
    }

    /// This first of its queue can go nowhere now.
    fn note_stuck(&mut self, head: Place, group: Group, ask: Ask) {
        if self.stuck.len() < AHEAD && self.stuck.iter().all(|(stuck, ..)| *stuck != head) {
            self.stuck.push((head, group, ask));
        }
    }

    /// This call waits no more.
    fn forget(&mut self, place: Place) {
        self.stuck.retain(|(stuck, ..)| *stuck != place);
        self.kept.retain(|kept| kept.place != place);
    }
}

/// Whether what keeps a call waiting is shared by all models: a cap is the account's.
fn is_shared(wait: Wait) -> bool {
    !matches!(wait, Wait::Told { .. } | Wait::Guessed { .. } | Wait::Growth { .. } | Wait::DayUsedUp | Wait::Paced)
}

impl Lane {
    /// Whose turn it is, of the calls from where `round` stands. A call that is named is started or taken out of the line
    /// before the next look.
    pub(super) fn next_turn(&mut self, now: Instant, round: &mut Round) -> Turn {
        let mut start = round.behind;
        let mut found: Option<(Place, Group, usize)> = None;
        while let Some((head, group)) = self.line.head_behind(round.behind) {
            // Only what stands before the one that was found may still go before it.
            if found.is_some_and(|(place, ..)| place < head) {
                break;
            }
            let before = round.behind.replace(head);
            let turn = match self.look_in(head, group, now, round) {
                Look::Goes(place, desk) => {
                    if found.is_none() {
                        start = before;
                    }
                    if found.is_none_or(|(best, ..)| place < best) {
                        found = Some((place, group, desk));
                    }
                    continue;
                }
                Look::Keeps => {
                    // What was found may be of those that must leave a desk alone from now on.
                    if found.take().is_some() {
                        round.behind = start;
                    }
                    continue;
                }
                Look::Nobody => continue,
                Look::Resting => Turn::Resting(head.call),
                Look::Closed => Turn::Closed(head.call),
            };
            round.behind = if found.is_some() { start } else { before };
            round.forget(head);
            return turn;
        }
        let Some((place, group, desk)) = found else { return Turn::Nobody(round.later) };
        round.behind = start;
        round.forget(place);
        Turn::Goes { place, group, desk }
    }

    /// Whose turn it is in one queue.
    fn look_in(&mut self, head: Place, group: Group, now: Instant, round: &mut Round) -> Look {
        let (mut least, mut impatient) = (None::<Ask>, None);
        for (call, waiting) in self.line.queue(head.priority, group).take(AHEAD) {
            let (place, ask) = (Place { call, ..head }, waiting.ask);
            // Where a smaller one does not fit, a larger one does not.
            if least.is_some_and(|least| least.tokens.is_within(ask.tokens)) {
                continue;
            }
            match self.desks.way(now, &ask, |desk| round.keeps(desk, place, group)) {
                Way::Open(desk) => return Look::Goes(place, desk),
                Way::Later(at) => round.later = Some(round.later.map_or(at, |earliest| earliest.min(at))),
                Way::Busy => {}
                Way::Resting if place == head => return Look::Resting,
                Way::Closed if place == head => return Look::Closed,
                // Told so when it is the first.
                Way::Resting | Way::Closed => {}
            }
            least = Some(ask);
            if place == head {
                round.note_stuck(head, group, ask);
                if waiting.passed >= PATIENCE {
                    impatient = Some(ask);
                    break;
                }
            }
        }
        match impatient {
            Some(ask) if self.keep_for(head, &ask, now, round) => Look::Keeps,
            _ => Look::Nobody,
        }
    }

    /// Leaves a desk to gather for the first of a queue: where it fits soonest. The choice stands until something has put
    /// it off there. Says whether the round did not know of it yet.
    fn keep_for(&mut self, head: Place, ask: &Ask, now: Instant, round: &mut Round) -> bool {
        if round.kept.iter().any(|kept| kept.place == head) {
            return false;
        }
        let group = ask.group;
        let desks = self.desks.len();
        let mut wait = |desk: usize| match self.desks.ready(desk, now, ask) {
            Ready::At(at, why) if !round.keeps(desk, head, group) => Some((at, desk, why)),
            _ => None,
        };
        let chosen = self.line.get(head, group).and_then(|waiting| waiting.gathers);
        let still = chosen.and_then(|(desk, until)| wait(desk).filter(|(at, ..)| *at <= until));
        let soonest = still.or_else(|| (0..desks).filter_map(wait).min_by_key(|(at, desk, _)| (*at, *desk)));
        let Some((at, desk, why)) = soonest else { return false };
        self.line.gather(head, group, desk, at);
        round.kept.push(Kept { place: head, desk, from: if is_shared(why) { None } else { Some(group) } });
        true
    }

    /// The call at `place` is about to go to `desk`: counts it against those that it goes past and that wait there for what
    /// it takes.
    pub(super) fn goes_past(&mut self, place: Place, group: Group, desk: usize, now: Instant, round: &mut Round) {
        for (head, of, ask) in round.stuck.iter().filter(|(head, ..)| *head < place) {
            if let Ready::At(_, why) = self.desks.ready(desk, now, ask)
                && (*of == group || is_shared(why))
                && self.line.pass(*head, *of) >= PATIENCE
            {
                // From now on a desk is left to it: the round has passed it, and starts again.
                round.behind = None;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod stage;
#[cfg(test)]
mod tests;
