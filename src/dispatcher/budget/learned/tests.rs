use super::lesson::LESSON_WITHIN;
use super::*;
use crate::clock;
use crate::messages::{Period, Reset};

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

const NO_CAPS: CapRates = CapRates { requests: f64::INFINITY, tokens: f64::INFINITY };

/// What is learned, from a start on. Times are seconds from it.
struct Rig {
    start: Instant,
    learned: Learned,
    caps: CapRates,
}

impl Rig {
    fn new() -> Self {
        Self { start: clock::now(), learned: Learned::default(), caps: NO_CAPS }
    }

    /// The user's cap is so many requests a minute.
    fn capped(requests: f64) -> Self {
        let mut rig = Self { caps: CapRates { requests: requests / 60.0, ..NO_CAPS }, ..Self::new() };
        rig.learned.guess_caps(rig.caps, rig.start);
        rig
    }

    fn at(&self, seconds: f64) -> Instant {
        self.start + s(seconds)
    }

    fn ready_at(&mut self, at: f64, tokens: u64) -> f64 {
        let tokens = Tokens { input: tokens, output: 0 };
        let (ready, why) = self.learned.ready_at(self.at(at), tokens, Priority::Normal, self.caps);
        assert_eq!(ready > self.at(at), why.is_some(), "a wait has its reason");
        (ready - self.start).as_secs_f64()
    }

    fn send(&mut self, at: f64, tokens: u64) -> Entered {
        let now = self.at(at);
        self.learned.enter(now, Tokens { input: tokens, output: 0 }, Priority::Normal, self.caps)
    }

    fn hear(&mut self, at: f64, entered: &Entered, report: &LimitReport) {
        self.learned.hear(entered, report, None, self.at(at));
    }

    fn refuse(&mut self, at: f64, entered: &Entered, report: &LimitReport, told: Option<f64>) {
        self.learned.hear(entered, report, None, self.at(at));
        self.learned.not_admitted(entered, true, self.at(at));
        self.learned.refused(entered, report, told.map(s), self.at(at));
    }

    /// So many calls within ten seconds up to `at`, the last of which is refused without a word.
    fn refused_behind(&mut self, calls: u32, at: f64) {
        for n in 1..calls {
            let each = self.send(at - 9.0 + 9.0 * f64::from(n) / f64::from(calls), 100);
            self.learned.settle(&each, None);
        }
        let last = self.send(at, 100);
        self.refuse(at, &last, &LimitReport::default(), None);
    }

    fn limit(&self, at: f64) -> Option<f64> {
        Some(self.learned.requests.as_ref()?.limit(self.at(at)))
    }
}

fn reading(dimension: Dimension, remaining: u64, limit: u64) -> BudgetReading {
    let mut reading = BudgetReading::new(dimension, Scope::Whole, None);
    (reading.remaining, reading.limit) = (Some(remaining), Some(limit));
    reading.reset = Some(Reset { after: s(1.0), grain: s(0.001) });
    reading
}

fn says(readings: &[BudgetReading]) -> LimitReport {
    LimitReport { budgets: readings.to_vec(), cost: None }
}

/// Of a window that is a minute without doubt.
fn minute(remaining: u64, limit: u64) -> LimitReport {
    let mut reading = reading(Dimension::Requests, remaining, limit);
    reading.reset = Some(Reset { after: s(50.0), grain: s(0.001) });
    LimitReport { budgets: vec![reading], ..LimitReport::default() }
}

fn requests(remaining: u64) -> LimitReport {
    says(&[reading(Dimension::Requests, remaining, 600)])
}

#[test]
fn a_lone_refusal_teaches_no_limit_and_two_at_a_like_rate_do() {
    let mut rig = Rig::new();
    rig.refused_behind(50, 10.0);
    assert!(!rig.learned.knows_a_rate());
    assert_eq!(rig.ready_at(10.0, 1_000_000), 10.0);
    rig.refused_behind(60, 40.0);
    // Between 300 and 360 a minute were delivered.
    let limit = rig.limit(40.0 + 60.0).expect("two are enough");
    assert!((290.0..360.0).contains(&limit), "{limit}");
    assert!(rig.ready_at(40.0, 100) > 40.0);
}

#[test]
fn refusals_at_unlike_rates_of_one_volley_or_long_apart_teach_nothing() {
    let mut rig = Rig::new();
    rig.refused_behind(10, 10.0);
    rig.refused_behind(100, 40.0);
    assert!(!rig.learned.knows_a_rate(), "unlike");

    let mut rig = Rig::new();
    rig.refused_behind(50, 10.0);
    for n in 1..30 {
        let each = rig.send(10.0 + 0.1 * f64::from(n), 100);
        rig.refuse(10.0 + 0.1 * f64::from(n), &each, &LimitReport::default(), None);
    }
    assert!(!rig.learned.knows_a_rate(), "of one volley");

    let mut rig = Rig::new();
    rig.refused_behind(50, 10.0);
    rig.refused_behind(50, 10.0 + LESSON_WITHIN.as_secs_f64() + 1.0);
    assert!(!rig.learned.knows_a_rate(), "long apart");
}

#[test]
fn a_cap_is_the_first_guess_where_the_provider_is_silent_and_goes_with_its_word() {
    let mut rig = Rig::capped(600.0);
    assert_eq!(rig.limit(0.0), Some(600.0));
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &requests(599));
    rig.learned.guess_caps(rig.caps, rig.at(0.1));
    assert!(rig.learned.requests.is_none() && rig.learned.is_told());
    // Another cap is another guess, but what was refused stays refused.
    let mut rig = Rig::capped(600.0);
    rig.refused_behind(60, 10.0);
    let refused = rig.limit(10.0);
    rig.learned.forget_caps();
    assert_eq!(rig.limit(10.0), refused);
    let mut rig = Rig::capped(600.0);
    rig.learned.forget_caps();
    assert_eq!(rig.limit(0.0), None);
}

#[test]
fn of_two_guesses_the_one_that_was_nearer_is_blamed() {
    let mut rig = Rig::new();
    rig.caps = CapRates { requests: 600.0 / 60.0, tokens: 6_000.0 / 60.0 };
    rig.learned.guess_caps(rig.caps, rig.start);
    for _ in 0..9 {
        let call = rig.send(5.0, 90);
        rig.learned.settle(&call, None);
    }
    let last = rig.send(5.0, 90);
    rig.refuse(5.0, &last, &LimitReport::default(), None);
    let tokens = rig.learned.tokens.as_ref().expect("it stays").limit(rig.at(5.0));
    assert!(tokens < 6_000.0 && rig.limit(5.0) >= Some(600.0), "{tokens}, {:?}", rig.limit(5.0));
}

#[test]
fn time_in_which_nobody_was_kept_back_does_not_raise_a_guess() {
    let mut rig = Rig::new();
    rig.refused_behind(50, 10.0);
    rig.refused_behind(50, 40.0);
    let limit = rig.limit(40.0).expect("two are enough");
    // One a minute, for hours: nothing is learned of what more would do.
    for n in 1..200 {
        let call = rig.send(40.0 + 60.0 * f64::from(n), 100);
        rig.learned.settle(&call, None);
    }
    let idle = rig.limit(40.0 + 60.0 * 199.0).expect("it stays");
    assert!(idle <= limit + 0.01, "{limit}, and behind idle hours {idle}");
    // Used to its limit it grows.
    let (mut at, end) = (12_000.0, 12_300.0);
    while at < end {
        at = rig.ready_at(at, 100).max(at);
        let call = rig.send(at, 100);
        rig.learned.settle(&call, None);
        at += 0.001;
    }
    let used = rig.limit(end).expect("it stays");
    assert!(used > 1.2 * limit, "{limit}, and behind five minutes of use {used}");
}

#[test]
fn a_refusal_despite_room_shows_a_hidden_limit_beside_what_is_told() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &minute(599, 600));
    let calls: Vec<Entered> = (0..120).map(|_| rig.send(1.0, 100)).collect();
    rig.refuse(1.1, &calls[119], &minute(400, 600), None);
    let hidden = rig.learned.hidden.as_ref().expect("it is remembered");
    assert_eq!(hidden.window(), Guess::WINDOW);
    assert!(hidden.limit(rig.at(1_000.0)) <= 600.0, "it is no more than what is told");
    assert!(rig.ready_at(1.2, 100) > 2.0, "of ten seconds' worth more has gone");
    // A refusal where nothing is left is about what is told.
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    rig.refuse(0.1, &call, &requests(0), Some(1.0));
    assert!(rig.learned.hidden.is_none());
}

#[test]
fn of_a_told_seconds_calls_two_that_are_refused_are_faults_and_four_show_a_limit() {
    let mut second = BudgetReading::new(Dimension::Requests, Scope::Whole, Some(Period::SECOND));
    (second.remaining, second.limit) = (Some(10), Some(20));
    for (refused, is_hidden) in [(2, false), (4, true)] {
        let mut rig = Rig::new();
        let call = rig.send(0.0, 100);
        rig.hear(0.1, &call, &says(&[second]));
        let calls: Vec<Entered> = (0..20).map(|_| rig.send(5.0, 100)).collect();
        calls[..refused].iter().for_each(|call| rig.refuse(5.1, call, &says(&[second]), None));
        assert_eq!(rig.learned.hidden.is_some(), is_hidden, "{refused}");
    }
}

#[test]
fn faults_are_no_hidden_limit_however_many() {
    let mut rig = Rig::new();
    let room = minute(600, 1_200);
    let (mut at, mut number) = (0.0, 0);
    while at < 120.0 {
        at = rig.ready_at(at, 100);
        let call = rig.send(at, 100);
        number += 1;
        // Two together, or they would be taken for accidents from the first.
        if number > 20 && number % 25 < 2 {
            rig.refuse(at + 0.01, &call, &room, None);
        } else {
            rig.hear(at + 0.01, &call, &room);
            rig.learned.settle(&call, None);
        }
        at += 0.05;
    }
    let believed = rig.learned.hidden.as_ref().map(|hidden| hidden.limit(rig.at(at)));
    assert!(believed.is_none_or(|limit| limit > 1_000.0), "{believed:?}");
}

#[test]
fn what_a_silent_provider_refuses_ever_again_is_no_limit_until_more_is() {
    let mut rig = Rig::new();
    let (mut at, mut number) = (10.0, 0);
    // One in twenty by fault, and behind that whatever is more than `most` within ten seconds.
    let mut play = |until: f64, most: u64| {
        let mut accidents = 0;
        while at < until {
            at = rig.ready_at(at, 100);
            let call = rig.send(at, 100);
            number += 1;
            if number % 20 == 0 || rig.learned.sends.since(rig.at(at - 10.0), Counted::Requests) > most {
                rig.learned.not_admitted(&call, true, rig.at(at));
                accidents += u32::from(rig.learned.refused(&call, &LimitReport::default(), Some(s(1.0)), rig.at(at)));
                at += 1.0;
            }
            at += 0.1;
        }
        (accidents, rig.limit(until))
    };
    let (accidents, limit) = play(300.0, u64::MAX);
    assert_eq!(limit, None, "nothing is guessed from faults");
    assert!(accidents > 20, "{accidents}");
    let (_, limit) = play(420.0, 20);
    assert!(limit.is_some_and(|limit| (60.0..180.0).contains(&limit)), "120 a minute are: {limit:?}");
    // A restart keeps what was found out.
    let now = rig.at(420.0);
    let kept = rig.learned.remember(None, now);
    let recalled = Learned::recall(&kept, &rig.learned.log(now), now).remember(None, now);
    assert!(kept.faults.is_some() && kept.inspected.is_some());
    assert_eq!((recalled.faults, recalled.inspected), (kept.faults, kept.inspected));
}

#[test]
fn what_is_told_keeps_calls_back_and_says_which_budget_it_is() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    let budgets = [reading(Dimension::Requests, 500, 600), reading(Dimension::InputTokens, 50, 6_000)];
    rig.hear(0.1, &call, &says(&budgets));
    assert_eq!(rig.ready_at(0.2, 1), 0.2);
    let tokens = Tokens { input: 1_000, output: 0 };
    let (_, why) = rig.learned.ready_at(rig.at(0.2), tokens, Priority::Normal, NO_CAPS);
    assert!(matches!(why, Some(Wait::Told { counted: Counted::Input, limit: 6_000, .. })), "{why:?}");
}

#[test]
fn what_turns_out_lower_than_it_was_believed_widens_the_margin() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &requests(500));
    for n in 1..=20 {
        let call = rig.send(f64::from(n), 100);
        rig.hear(f64::from(n) + 0.1, &call, &requests(500 - 20 * n as u64));
    }
    let margin = rig.learned.told[0].1.remember(Scope::Whole, rig.at(20.0), &rig.learned.sends).margin;
    assert!(margin > 5.0, "{margin}");
}

#[test]
fn what_is_surely_larger_than_a_limit_or_was_called_so_never_fits() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &says(&[reading(Dimension::Tokens, 900, 1_000)]));
    let never = |rig: &Rig, input| {
        rig.learned.never_fits(Tokens { input, output: 0 }, rig.at(4.0)).map(|beyond| (beyond.counted, beyond.limit))
    };
    assert_eq!(never(&rig, 1_300), None, "an estimate may be off");
    assert_eq!(never(&rig, 1_301), Some((Counted::Tokens, 1_000)));
    let call = rig.send(1.0, 800);
    rig.learned.too_large(&call, &LimitReport::default(), rig.at(1.0));
    assert_eq!((never(&rig, 799), never(&rig, 800)), (None, Some((Counted::Tokens, 1_000))));
    // Half of a limit or less was not refused for its size.
    let call = rig.send(2.0, 500);
    rig.learned.too_large(&call, &LimitReport::default(), rig.at(2.0));
    assert_eq!(never(&rig, 799), None);
}

#[test]
fn a_call_refused_for_its_tokens_beside_a_whole_limit_is_too_large() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 900);
    rig.refuse(0.1, &call, &says(&[reading(Dimension::Tokens, 1_000, 1_000)]), None);
    let beyond = rig.learned.never_fits(Tokens { input: 900, output: 0 }, rig.at(0.1));
    assert_eq!(beyond.map(|beyond| (beyond.counted, beyond.limit)), Some((Counted::Tokens, 1_000)));
}

#[test]
fn a_budget_of_which_nothing_is_told_any_more_is_forgotten() {
    let mut rig = Rig::new();
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &requests(0));
    for n in 1..=SILENT {
        assert!(rig.learned.is_told(), "behind {n}");
        let call = rig.send(f64::from(n), 100);
        rig.hear(f64::from(n), &call, &LimitReport::default());
    }
    assert!(!rig.learned.is_told());
    assert_eq!(rig.ready_at(f64::from(SILENT), 100), f64::from(SILENT));
}

#[test]
fn ever_new_budgets_do_not_fill_the_memory() {
    let mut rig = Rig::new();
    let scopes = [Scope::Whole, Scope::Project, Scope::UsageBased, Scope::Priority, Scope::Dynamic];
    let dimensions = [Dimension::Requests, Dimension::Tokens, Dimension::InputTokens, Dimension::OutputTokens];
    let all =
        scopes.into_iter().flat_map(|scope| dimensions.map(|of| BudgetReading { scope, ..reading(of, 1, 1_000) }));
    let call = rig.send(0.0, 100);
    rig.hear(0.1, &call, &says(&all.collect::<Vec<_>>()));
    assert_eq!(rig.learned.told.len(), KEPT);
}

#[test]
fn usage_corrects_what_calls_are_entered_with_and_the_call_itself() {
    let mut rig = Rig::new();
    for n in 0..100 {
        let call = rig.send(f64::from(n), 1_000);
        rig.learned.settle(&call, Some(Tokens { input: 250, output: 0 }));
    }
    let estimate = Tokens { input: 1_000, output: 0 };
    let cost = rig.learned.cost(estimate).of(Counted::Tokens);
    assert!((250..270).contains(&cost), "{cost}");
    let logged = rig.learned.sends.since(rig.at(40.0), Counted::Tokens);
    assert_eq!(logged, 59 * 250);
    // Nonsense does not close the account for days.
    let call = rig.send(100.0, 1_000);
    rig.learned.settle(&call, Some(Tokens { input: u64::MAX, output: u64::MAX }));
    assert!(rig.learned.sends.since(rig.at(99.5), Counted::Tokens) <= 2 << 20);
}

#[test]
fn a_refused_call_costs_no_tokens_and_a_request_only_where_requests_are_told_of() {
    for is_told in [false, true] {
        let mut rig = Rig::new();
        let call = rig.send(0.0, 100);
        rig.hear(0.1, &call, &if is_told { requests(500) } else { LimitReport::default() });
        let call = rig.send(1.0, 100);
        rig.learned.not_admitted(&call, true, rig.at(1.1));
        let since = |counted| rig.learned.sends.since(rig.at(0.5), counted);
        assert_eq!((since(Counted::Requests), since(Counted::Tokens)), (u64::from(is_told), 0));
    }
}

#[test]
fn a_cap_that_nobody_has_refused_is_not_said_to_be_learned() {
    let Rig { start, mut learned, caps } = Rig::capped(60.0);
    let why = loop {
        learned.guess_caps(caps, start);
        match learned.ready_at(start, Tokens::default(), Priority::Normal, caps) {
            (_, None) => _ = learned.enter(start, Tokens::default(), Priority::Normal, caps),
            (_, Some(why)) => break why,
        }
    };
    assert!(matches!(why, Wait::Guessed { why: Why::Cap, .. }), "{why:?}");
    assert_eq!(
        why.to_string(),
        "some 60 requests per minute (as many as are configured; the provider does not tell its limit, and refused none \
         so far) are used up for now"
    );
}
