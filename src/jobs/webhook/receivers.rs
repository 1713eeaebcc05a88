//! Receivers that keep still. An attempt that nobody answers takes its place for its whole time, so a dead receiver with
//! many webhooks would hold up those of all others: it gets one attempt at a time until it answers again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::telemetry::webhooks as events;

/// Unanswered attempts in a row, after which a receiver is held. Fewer may happen to one that is merely busy.
const MOST_SILENT: u32 = 8;
/// Receivers remembered. Callers can name any number of dead ones; past this the memory begins anew.
const MOST_REMEMBERED: usize = 1024;

/// What is known of receivers, by origin: only those that left the last attempt unanswered.
#[derive(Default)]
pub(super) struct Receivers(HashMap<Box<str>, Silence>);

#[derive(Default)]
struct Silence {
    /// Unanswered in a row.
    times: u32,
    /// Whether an attempt is under way to see whether a held receiver is back.
    probed: bool,
}

impl Receivers {
    /// A turn to make an attempt at `origin`; `None` while it is held and another sees whether it is back.
    pub(super) fn turn(all: &Rc<RefCell<Self>>, origin: &str) -> Option<Turn> {
        let mut known = all.borrow_mut();
        let silence = known.0.get_mut(origin).filter(|silence| silence.times >= MOST_SILENT);
        let is_probe = silence.is_some();
        if let Some(silence) = silence
            && std::mem::replace(&mut silence.probed, true)
        {
            return None;
        }
        Some(Turn { all: Rc::clone(all), origin: origin.into(), is_probe })
    }

    fn answered(&mut self, origin: &str) {
        if self.0.remove(origin).is_some_and(|silence| silence.times >= MOST_SILENT) {
            events::webhooks_resumed(origin);
        }
    }

    fn silent(&mut self, origin: &str) {
        if self.0.len() >= MOST_REMEMBERED && !self.0.contains_key(origin) {
            self.0.clear();
        }
        let silence = self.0.entry(origin.into()).or_default();
        silence.times = silence.times.saturating_add(1);
        if silence.times == MOST_SILENT {
            events::webhooks_held(origin, silence.times);
        }
    }
}

/// Leave to make one attempt. Dropped without a word, as when its attempt is, it says nothing of the receiver.
pub(super) struct Turn {
    all: Rc<RefCell<Receivers>>,
    origin: Box<str>,
    is_probe: bool,
}

impl Turn {
    /// The attempt was answered or refused, in whatever way: it took no long time.
    pub(super) fn answered(self) {
        self.all.borrow_mut().answered(&self.origin);
    }

    /// The attempt took all the time it had.
    pub(super) fn silent(self) {
        self.all.borrow_mut().silent(&self.origin);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_probe
            && let Some(silence) = self.all.borrow_mut().0.get_mut(&self.origin)
        {
            silence.probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(all: &Rc<RefCell<Receivers>>, origin: &str) {
        for _ in 0..MOST_SILENT {
            Receivers::turn(all, origin).expect("not held yet").silent();
        }
    }

    #[test]
    fn a_receiver_that_keeps_still_gets_one_attempt_at_a_time_until_it_answers() {
        let all = Rc::default();
        let together: Vec<_> = (0..20).map(|_| Receivers::turn(&all, "http://dead").expect("nothing known")).collect();
        together.into_iter().for_each(Turn::silent);

        let probe = Receivers::turn(&all, "http://dead").expect("one at a time");
        assert!(Receivers::turn(&all, "http://dead").is_none());
        assert!(Receivers::turn(&all, "http://other").is_some(), "others go on");
        probe.silent();

        let probe = Receivers::turn(&all, "http://dead").expect("the next");
        probe.answered();
        let _turns = [Receivers::turn(&all, "http://dead").unwrap(), Receivers::turn(&all, "http://dead").unwrap()];
        assert!(all.borrow().0.is_empty(), "nothing is remembered of who answers");
    }

    #[test]
    fn a_receiver_that_answers_now_and_then_is_never_held() {
        let all = Rc::default();
        for n in 0..100 {
            let turn = Receivers::turn(&all, "http://busy").expect("never held");
            if n % MOST_SILENT == 0 { turn.answered() } else { turn.silent() }
        }
    }

    #[test]
    fn a_probe_that_is_called_off_makes_room_for_the_next() {
        let all = Rc::default();
        held(&all, "http://dead");
        let probe = Receivers::turn(&all, "http://dead");
        assert!(probe.is_some() && Receivers::turn(&all, "http://dead").is_none());
        drop(probe);
        assert!(Receivers::turn(&all, "http://dead").is_some());
    }

    #[test]
    fn an_attempt_from_before_the_hold_does_not_end_the_probes_turn() {
        let all = Rc::default();
        let early = Receivers::turn(&all, "http://dead");
        held(&all, "http://dead");
        let _probe = Receivers::turn(&all, "http://dead").unwrap();
        drop(early);
        assert!(Receivers::turn(&all, "http://dead").is_none());
    }

    #[test]
    fn any_number_of_dead_receivers_is_remembered_in_bounded_memory() {
        let all = Rc::default();
        for n in 0..3 * MOST_REMEMBERED {
            Receivers::turn(&all, &format!("http://dead-{n}")).unwrap().silent();
            assert!(all.borrow().0.len() <= MOST_REMEMBERED);
        }
    }
}
