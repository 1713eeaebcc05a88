//! What it decides, call by call, and what that comes to over twenty virtual minutes from cold.

mod world;

use proptest::prelude::*;

use self::world::{Beyond, Change, Minute, Scene, World, sum};
use super::*;
use crate::clock;

/// An account with calls in flight.
struct Account {
    concurrency: Concurrency,
    now: Instant,
    marks: Vec<Mark>,
}

const ANSWERED: End = End::Answered { took: None };
const REJECTED: End = End::Rejected { rate_is_suspect: false };

impl Account {
    fn new(most: usize) -> Self {
        let now = clock::now();
        Self { concurrency: Concurrency::new(most, now), now, marks: Vec::new() }
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn room(&mut self) -> Room {
        self.concurrency.ready(self.now, self.marks.len())
    }

    /// Starts as many as may go, and says how many that were.
    fn fill(&mut self) -> usize {
        let before = self.marks.len();
        while self.room() == Room::Go {
            let mark = self.concurrency.started(self.now, self.marks.len() + 1, 0);
            self.marks.push(mark);
        }
        self.marks.len() - before
    }

    /// The attempt at `at`, oldest first, ends.
    fn end(&mut self, at: usize, end: End) -> bool {
        let mark = self.marks.remove(at);
        self.concurrency.ended(mark, end, self.now, self.marks.len())
    }

    fn end_last(&mut self, end: End) -> bool {
        self.end(self.marks.len() - 1, end)
    }

    fn end_all(&mut self, end: End) {
        while !self.marks.is_empty() {
            self.end(0, end);
        }
    }

    /// Refuses what is beyond `taken` in flight, as an account does that takes so many.
    fn refuse_beyond(&mut self, taken: usize) {
        self.pass(0.1);
        while self.marks.len() > taken {
            assert!(self.end_last(REJECTED));
        }
    }

    fn due(&mut self) -> f64 {
        let Room::At(at) = self.room() else { panic!("a probe is to come, not {:?}", self.room()) };
        (at - self.now).as_secs_f64()
    }
}

#[test]
fn an_account_of_which_nothing_is_known_takes_sixteen_and_one_more_for_each_that_is_taken() {
    let mut account = Account::new(512);
    assert_eq!(account.fill(), 16);
    assert_eq!(account.room(), Room::WhenOneEnds);
    account.end_all(ANSWERED);
    assert_eq!(account.fill(), 32);
    let (concurrency, now) = (&mut account.concurrency, account.now);
    account.marks.iter_mut().for_each(|mark| concurrency.heard(mark, None, now));
    assert_eq!(account.fill(), 32, "a first byte is enough");
    account.end_all(ANSWERED);
    assert_eq!(account.concurrency.window(), 96, "but counts once");
}

#[test]
fn a_window_that_is_not_full_does_not_grow() {
    let mut account = Account::new(512);
    for _ in 0..100 {
        let mark = account.concurrency.started(account.now, 1, 0);
        account.concurrency.ended(mark, ANSWERED, account.now, 0);
    }
    assert_eq!(account.concurrency.window(), 16);
}

#[test]
fn what_is_in_flight_at_the_refusals_is_remembered_and_probes_follow_twice_as_late_each_time() {
    let mut account = Account::new(512);
    account.fill();
    account.refuse_beyond(5);
    assert_eq!(account.concurrency.window(), 5);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let wait = account.due();
        waits.push(wait.round() as u64);
        // So many go in the meantime that a probe is not too dear.
        for _ in 1..wait.round() as usize {
            account.pass(1.0);
            account.end(0, ANSWERED);
            assert_eq!(account.fill(), 1);
        }
        account.pass(1.0);
        assert_eq!(account.fill(), 1, "one probe at a time");
        account.refuse_beyond(5);
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 120, 120]);
    assert_eq!(account.concurrency.in_words(), "takes 5 at once (learned; the last refusal was at 6)");
}

#[test]
fn a_probe_that_is_taken_makes_room_and_three_in_a_row_let_the_window_grow_again() {
    let mut account = Account::new(512);
    account.fill();
    account.refuse_beyond(5);
    account.pass(5.0);
    account.fill();
    account.refuse_beyond(5);
    for window in 6..=8 {
        let due = account.due();
        account.pass(due);
        assert_eq!(account.fill(), 1);
        account.end_last(ANSWERED);
        assert_eq!(account.concurrency.window(), window);
        account.fill();
    }
    assert_eq!(account.room(), Room::WhenOneEnds);
    account.end_all(ANSWERED);
    assert_eq!(account.concurrency.window(), 16);
}

#[test]
fn one_refusal_below_the_full_window_teaches_nothing_and_two_in_a_row_do() {
    let mut account = Account::new(512);
    let start = |account: &mut Account, in_flight| account.concurrency.started(account.now, in_flight, 0);
    let marks = [1, 2, 3].map(|in_flight| start(&mut account, in_flight));
    let [one, two, three] = marks;
    assert!(account.concurrency.ended(two, End::Lost, account.now, 2));
    assert_eq!(account.concurrency.window(), 16);
    assert!(account.concurrency.ended(three, End::Lost, account.now, 1));
    assert_eq!(account.concurrency.window(), 1);
    account.concurrency.ended(one, ANSWERED, account.now, 0);
}

#[test]
fn a_connection_that_is_lost_late_or_behind_a_first_byte_says_nothing() {
    let mut account = Account::new(512);
    account.fill();
    account.concurrency.heard(&mut account.marks[0], None, account.now);
    assert!(!account.end(0, End::Lost));
    account.pass(1.0);
    for _ in 0..15 {
        assert!(!account.end_last(End::Lost));
    }
    assert_eq!(account.concurrency.window(), 17);
}

#[test]
fn a_probe_that_is_never_heard_of_again_does_not_keep_others_back() {
    let mut account = Account::new(512);
    account.fill();
    account.refuse_beyond(5);
    account.pass(5.0);
    assert_eq!(account.fill(), 1);
    assert_eq!(account.due(), PATIENCE.as_secs_f64());
    account.pass(2.0);
    assert_eq!((account.room(), account.concurrency.window()), (Room::WhenOneEnds, 6), "it was not refused");
}

#[test]
fn where_refusals_come_late_a_probe_is_waited_for_longer() {
    let mut account = Account::new(512);
    account.fill();
    account.pass(5.0);
    assert!(account.end_last(REJECTED));
    let due = account.due();
    account.pass(due);
    assert_eq!(account.fill(), 1);
    assert_eq!(account.due(), 10.0);
}

#[test]
fn a_probe_that_was_cancelled_may_be_sent_again_at_once() {
    let mut account = Account::new(512);
    account.fill();
    account.refuse_beyond(5);
    account.pass(5.0);
    assert_eq!(account.fill(), 1);
    account.end_last(End::Unrelated);
    assert_eq!((account.fill(), account.concurrency.window()), (1, 5));
}

#[test]
fn one_that_was_refused_alone_was_not_one_too_many_and_what_went_before_comes_back_with_the_answers() {
    let mut account = Account::new(512);
    account.fill();
    account.end_all(ANSWERED);
    account.fill();
    account.end_all(End::Lost);
    assert_eq!(account.concurrency.window(), 1, "nothing goes any more");
    account.fill();
    assert!(!account.end_last(REJECTED), "a 429 to one alone is the rate's");
    for window in [2, 4, 8, 16, 32] {
        account.fill();
        account.end_all(ANSWERED);
        assert_eq!(account.concurrency.window(), window);
    }
}

#[test]
fn after_an_overload_half_goes_and_grows_back_to_where_it_was() {
    let mut account = Account::new(512);
    for _ in 0..2 {
        account.fill();
        account.end_all(ANSWERED);
    }
    account.fill();
    account.refuse_beyond(60);
    account.end_all(ANSWERED);
    account.fill();
    account.end_all(End::Overloaded);
    assert_eq!(account.concurrency.window(), 30, "once for all that were sent before");
    account.fill();
    account.end_all(End::Overloaded);
    assert_eq!(account.concurrency.window(), 15, "and again");
    for window in [30, 60] {
        account.fill();
        account.end_all(ANSWERED);
        assert_eq!(account.concurrency.window(), window);
    }
    account.fill();
    assert_eq!(account.due(), SOON.as_secs_f64(), "and from there it creeps");
}

#[test]
fn a_429_that_the_rate_explains_or_that_came_with_fewer_in_flight_than_were_taken_is_the_rates() {
    let mut account = Account::new(512);
    account.fill();
    assert!(!account.end_last(End::Rejected { rate_is_suspect: true }), "near a limit that is known");
    assert_eq!(account.concurrency.window(), 16);
    let mark = |account: &mut Account, load| {
        account.pass(0.2);
        account.concurrency.started(account.now, load, 0)
    };
    let taken = mark(&mut account, 10);
    assert!(!account.concurrency.ended(taken, ANSWERED, account.now, 9));
    let refused = mark(&mut account, 8);
    assert!(!account.concurrency.ended(refused, REJECTED, account.now, 7), "ten were taken a moment ago");
    account.pass(31.0);
    let refused = mark(&mut account, 8);
    assert!(account.concurrency.ended(refused, REJECTED, account.now, 7), "that was long ago");
}

#[test]
fn where_the_provider_tells_of_its_limits_the_window_grows_with_every_answer_until_one_is_refused() {
    let mut account = Account::new(512);
    account.concurrency.set_told(true);
    for _ in 0..100 {
        let mark = account.concurrency.started(account.now, 1, 0);
        account.concurrency.ended(mark, ANSWERED, account.now, 0);
    }
    assert_eq!(account.concurrency.window(), 116);
}

#[test]
fn the_upper_bound_holds_at_any_time_and_forgets_nothing() {
    let mut account = Account::new(512);
    account.fill();
    account.end_all(ANSWERED);
    account.fill();
    account.concurrency.set_most(3);
    assert_eq!((account.concurrency.window(), account.room()), (3, Room::WhenOneEnds));
    account.end_last(End::Lost);
    account.end_last(End::Lost);
    account.concurrency.set_most(0);
    assert_eq!(account.concurrency.window(), 1, "one may always go");
    assert_eq!(account.concurrency.in_words(), "takes 1 at once (the configured most)");
    let mut account = Account::new(8);
    account.fill();
    account.end_all(ANSWERED);
    account.concurrency.set_most(512);
    assert_eq!(account.concurrency.window(), 16);
}

#[test]
fn what_was_learned_survives_a_restart_and_is_probed_soon() {
    let mut account = Account::new(512);
    account.fill();
    account.refuse_beyond(5);
    let learned = serde_json::to_string(&account.concurrency.remember(account.now)).expect("it can be written");
    let learned: Learned = serde_json::from_str(&learned).expect("and read");
    let mut next = Account::new(512);
    next.concurrency.recall(learned, next.now);
    assert_eq!(next.fill(), 5);
    assert_eq!(next.concurrency.in_words(), account.concurrency.in_words());
    assert!(next.due() <= 5.0);
    let nonsense = Learned { limit: 0, probe_in: Duration::MAX, probe_wait: Duration::MAX, knee: Some(0), ..learned };
    let mut next = Account::new(512);
    next.concurrency.recall(nonsense, next.now);
    assert_eq!(next.fill(), 1);
    assert!(next.due() <= 120.0);
    let nonsense = Learned { limit: usize::MAX, knee: Some(usize::MAX), growing_until: None, ..learned };
    next.concurrency.recall(nonsense, next.now);
    for _ in 0..100 {
        next.pass(10.0);
        next.end_all(ANSWERED);
        next.fill();
    }
    assert_eq!(next.concurrency.window(), 512);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_happens_the_window_stays_in_its_bounds_wakes_come_true_and_all_is_found_again(
        events in prop::collection::vec((0..14_u8, 0..64_usize, 0.0..3.0_f64), 0..400)
    ) {
        let mut account = Account::new(64);
        for (what, which, seconds) in events {
            let at = which % account.marks.len().max(1);
            let is_any = !account.marks.is_empty();
            let took = Some(Duration::from_secs_f64(seconds * which as f64));
            match what {
                0..=2 => _ = account.fill(),
                3 if is_any => _ = account.end(at, End::Answered { took }),
                4 if is_any => _ = account.end(at, ANSWERED),
                5 if is_any => _ = account.end(at, REJECTED),
                6 if is_any => _ = account.end(at, End::Rejected { rate_is_suspect: true }),
                7 if is_any => _ = account.end(at, End::Lost),
                8 if is_any => _ = account.end(at, End::Overloaded),
                9 if is_any => _ = account.end(at, End::Unrelated),
                10 if is_any => account.concurrency.heard(&mut account.marks[at], took, account.now),
                11 => account.concurrency.set_most(which),
                12 => account.concurrency.start_over(account.now),
                13 => {
                    let learned = account.concurrency.remember(account.now);
                    account.concurrency.recall(learned, account.now);
                }
                _ => account.pass(seconds),
            }
            let window = account.concurrency.window();
            prop_assert!((1..=account.concurrency.most).contains(&window));
            match account.room() {
                Room::Go => {}
                Room::At(at) => {
                    prop_assert!(at > account.now && at <= account.now + LONGEST_WAIT);
                    // Nothing else happens until then, and then it may go, or what was out has proved itself.
                    account.now = at;
                    prop_assert!(account.room() == Room::Go || account.concurrency.window() > window);
                }
                Room::WhenOneEnds => prop_assert!(!account.marks.is_empty()),
            }
        }
        // From now on all goes well.
        account.concurrency.set_most(64);
        for _ in 0..600 {
            account.fill();
            account.pass(1.0);
            account.end_all(ANSWERED);
        }
        prop_assert_eq!(account.concurrency.window(), 64);
    }
}

/// Prints what a scene comes to with each of some seeds, and gives the runs.
fn runs(name: &str, scene: &Scene) -> Vec<Vec<Minute>> {
    let runs: Vec<_> = (0..4).map(|seed| World::run(scene.clone(), seed).minutes).collect();
    let line = |what: fn(&Minute) -> f64| runs.iter().map(|run| format!(" {:.2}", what(&sum(run)))).collect::<String>();
    let (used, refused, slowness) = (line(Minute::used), line(Minute::refusals), line(Minute::slowness));
    println!("{name}: % of slots used{used}; % refused{refused}; times the unloaded latency{slowness}");
    runs
}

fn total(runs: &[Vec<Minute>]) -> Minute {
    sum(&runs.concat())
}

const MINUTE: f64 = 60.0;

#[test]
fn the_slots_of_an_account_that_refuses_one_too_many_are_found_and_used() {
    for capacity in [5, 20, 100] {
        for beyond in [Beyond::Rejects, Beyond::Resets] {
            for faults in [0.0, 0.03] {
                let name = format!("{capacity} slots, {beyond:?}, {} % faults", 100.0 * faults);
                for run in runs(&name, &Scene { faults, ..Scene::new(capacity, beyond) }) {
                    let all = sum(&run);
                    assert!(all.used() > 95.0 && all.refusals() < 2.0, "{name}: {all:?}");
                    assert_eq!(all.disowned, 0.0, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_rate_that_nobody_tells_of_is_not_taken_for_a_number_for_long() {
    for rate in [2.0, 5.0, 20.0] {
        let scene = Scene { rate: Some(rate), ..Scene::new(1_000, Beyond::Rejects) };
        for run in runs(&format!("{rate} a second"), &scene) {
            let later = sum(&run[3..]);
            let answered = later.answered / (rate * 17.0 * MINUTE);
            assert!(answered > 0.9 && later.refusals() < 1.0, "{answered} {later:?}");
        }
    }
}

#[test]
fn a_server_that_only_becomes_slow_is_kept_busy_and_not_slow() {
    for capacity in [8, 32, 128] {
        let runs = runs(&format!("{capacity} workers"), &Scene::new(capacity, Beyond::Queues));
        let all = total(&runs);
        assert!(all.used() > 95.0 && all.slowness() < 1.5, "{all:?}");
        for all in runs.iter().map(|run| sum(run)) {
            assert!(all.used() > 93.0 && all.slowness() < 1.75, "{all:?}");
        }
    }
}

#[test]
fn more_or_fewer_slots_in_mid_run_are_found() {
    let changes = vec![(6.0 * MINUTE, Change::Capacity(40)), (13.0 * MINUTE, Change::Capacity(10))];
    let scene = Scene { changes, faults: 0.03, ..Scene::new(20, Beyond::Rejects) };
    for run in runs("20 slots, then 40, then 10", &scene) {
        assert!(sum(&run[8..13]).used() > 92.0 && sum(&run[15..]).used() > 94.0);
        assert!(sum(&run).refusals() < 2.0);
        assert!(sum(&run).disowned < 50.0, "only while what was taken before speaks against it");
    }
}

#[test]
fn longer_answers_are_not_taken_for_a_queue() {
    let changes = vec![(6.0 * MINUTE, Change::Median(8.0)), (13.0 * MINUTE, Change::Median(4.0))];
    for (most, least) in [(8, 80.0), (100, 95.0)] {
        let scene = Scene { most, changes: changes.clone(), ..Scene::new(1_000, Beyond::Queues) };
        let name = format!("{most} at a server for 1000, answers twice as long");
        for run in runs(&name, &scene) {
            // What was under way at the change was not counted, and is no loss.
            assert!(sum(&run[7..13]).used() > least, "{:?}", run[7..13].iter().map(Minute::used).collect::<Vec<_>>());
            assert_eq!(run[19].window, most);
        }
    }
    for capacity in [8, 32] {
        let scene = Scene { changes: changes.clone(), ..Scene::new(capacity, Beyond::Queues) };
        let all = total(&runs(&format!("{capacity} workers, answers twice as long"), &scene));
        assert!(all.used() > 90.0 && all.slowness() < 1.5, "{all:?}");
    }
}

#[test]
fn more_or_fewer_workers_in_mid_run_are_found() {
    let changes = vec![(6.0 * MINUTE, Change::Capacity(64)), (13.0 * MINUTE, Change::Capacity(16))];
    let all = total(&runs("32 workers, then 64, then 16", &Scene { changes, ..Scene::new(32, Beyond::Queues) }));
    assert!(all.used() > 94.0 && all.slowness() < 1.5, "{all:?}");
}

#[test]
fn the_knee_is_found_in_first_bytes_mixed_models_and_long_tails_too() {
    let workers = || Scene::new(32, Beyond::Queues);
    let scenes = [
        ("first bytes", Scene { first_byte: Some(0.05), ..workers() }),
        ("one in five ten times as long", Scene { kinds: &[(0.8, 1.0), (0.2, 10.0)], ..workers() }),
        ("sigma 1", Scene { sigma: 1.0, ..workers() }),
    ];
    for (name, scene) in scenes {
        let all = total(&runs(&format!("32 workers, {name}"), &scene));
        assert!(all.used() > 88.0 && all.slowness() < 1.5, "{name}: {all:?}");
    }
}

#[test]
fn demand_that_comes_and_goes_is_served() {
    let demand = |minute: f64, calls| (minute * MINUTE, Change::Demand(calls));
    let changes = vec![demand(0.0, 4), demand(6.0, 1_000), demand(13.0, 20), demand(16.0, 1_000)];
    let all = total(&runs("32 workers, demand changes", &Scene { changes, ..Scene::new(32, Beyond::Queues) }));
    assert!(all.used() > 93.0 && all.slowness() < 1.6, "{all:?}");
}

#[test]
fn after_an_overload_or_a_time_without_a_server_all_is_as_before() {
    for change in [Change::Overload, Change::Down] {
        for at in [0.0, 6.0] {
            let changes = vec![(at * MINUTE, change(true)), ((at + 1.0) * MINUTE, change(false))];
            let scene = Scene { changes, ..Scene::new(100, Beyond::Rejects) };
            for run in runs(&format!("100 slots, {:?} in minute {at}", change(true)), &scene) {
                let next = at as usize + 2;
                assert!(sum(&run[next..]).used() > 94.0 && sum(&run).refusals() < 2.0);
            }
        }
    }
}
