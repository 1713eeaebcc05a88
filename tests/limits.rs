//! Calls flow at the provider's true limit: the real dispatcher, actors and pool in virtual time, against models of
//! providers' limiters. Each test plays scenarios of `benches/limits/world/catalogue.rs` with one seed and holds what came
//! of it to the bounds in `aims.rs` there; `cargo bench --bench limits` plays all of them, with other clients beside.

#[path = "../benches/limits/world/mod.rs"]
mod world;

use forebay::simulator::limits::RetryAfter;
use world::catalogue::{self, BURSTS, KINDS};
use world::clients::Client;
use world::scenario::{Full, Kind, Scenario};

/// The seed of every test; others are the bench's.
const SEED: u64 = 1;

/// Plays each scenario, and fails with the figures of those that break a bound.
#[track_caller]
fn hold(scenarios: impl IntoIterator<Item = Scenario>) {
    let runs = scenarios.into_iter().map(|scenario| world::run(&scenario, Client::Forebay, SEED));
    let broken: Vec<String> =
        runs.filter(|run| run.findings().iter().any(|finding| !finding.holds())).map(|run| run.to_string()).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Ten minutes of each, where the bench takes longer.
fn shorter<const N: usize>(scenarios: [Scenario; N]) -> [Scenario; N] {
    scenarios.map(|scenario| scenario.lasting(600.0))
}

/// The scenario of this name against these limiters.
fn against<const N: usize>(kinds: [Kind; N], name: &str) -> [Scenario; N] {
    kinds.map(|kind| catalogue::scenario(name, kind).expect("a scenario of that name"))
}

#[test]
fn a_limit_on_requests_is_used_in_full_and_never_run_into() {
    hold(against(KINDS, "rpm"));
}

#[test]
fn a_limit_on_tokens_is_used_in_full_and_never_run_into() {
    hold(against(KINDS, "tpm"));
}

#[test]
fn headers_that_come_early_are_no_worse() {
    hold(against([Kind::Sliding, Kind::Tens], "tpm_stream"));
}

#[test]
fn a_cap_at_the_limit_is_kept_and_used() {
    hold(against([Kind::Bucket, Kind::Minute], "cap_exact"));
}

#[test]
fn a_cap_above_the_limit_changes_nothing() {
    hold(against([Kind::Sliding], "cap_2x_high"));
}

#[test]
fn a_cap_below_the_limit_is_kept_and_used_in_full() {
    hold(against(KINDS, "cap_2x_low"));
}

#[test]
fn a_limit_that_is_halved_and_restored_is_followed() {
    hold(against(KINDS, "halved"));
}

#[test]
fn four_processes_share_one_account_unaware_of_each_other() {
    hold(against(KINDS, "shared4"));
}

#[test]
fn a_bucket_that_holds_a_second_is_not_waited_for() {
    hold([catalogue::second()]);
}

#[test]
fn four_processes_of_streams_share_one_account() {
    hold(against([Kind::Bucket, Kind::Minute], "shared4_stream"));
}

#[test]
fn refusals_that_cost_nothing_change_nothing() {
    hold(against([Kind::Sliding], "uncounted"));
}

#[test]
fn reservations_are_what_counts_where_answers_are_shorter() {
    hold(against(KINDS, "reserved"));
}

#[test]
fn it_does_not_matter_how_refusals_tell_the_time() {
    hold(against([Kind::Sliding], "whole_seconds"));
    hold(against([Kind::Tens], "untold"));
}

#[test]
fn resets_in_whole_seconds_are_enough() {
    hold(against([Kind::Bucket, Kind::Tens], "rounded"));
}

#[test]
fn a_huge_call_among_small_ones_neither_starves_nor_stops_them() {
    hold(against(KINDS, "huge"));
}

#[test]
fn a_call_that_is_too_large_stops_no_other() {
    hold(against([Kind::Bucket, Kind::Minute], "over"));
}

#[test]
fn a_call_that_can_never_fit_is_refused_at_once_with_the_reason() {
    hold(against([Kind::Bucket, Kind::Tens], "never"));
}

#[test]
fn an_account_that_dislikes_growth_is_not_pushed() {
    hold(against([Kind::Bucket, Kind::Minute], "accelerated"));
}

#[test]
fn a_lone_call_on_an_idle_account_never_waits() {
    hold(against(KINDS, "lone"));
    hold(against(KINDS, "lone_blind"));
}

#[test]
fn a_limit_without_headers_is_learned_from_refusals() {
    hold(KINDS.map(|kind| catalogue::blind(kind, RetryAfter::Seconds, None)));
}

#[test]
fn a_limit_without_headers_is_learned_from_refusals_that_name_no_time() {
    hold([Kind::Bucket, Kind::Sliding].map(|kind| catalogue::blind(kind, RetryAfter::Absent, None)));
}

#[test]
fn a_limit_without_headers_is_learned_below_a_cap() {
    let capped = [(Kind::Minute, 0.5), (Kind::Tens, 1.0), (Kind::Sliding, 2.0)];
    hold(capped.map(|(kind, cap)| catalogue::blind(kind, RetryAfter::Exact, Some(cap))));
}

#[test]
fn a_burst_onto_a_full_bucket_does_not_wait() {
    hold(shorter(BURSTS.map(|calls| catalogue::burst(Kind::Bucket, None, 1, false, calls))));
}

#[test]
fn a_burst_beside_a_running_batch_does_not_wait() {
    hold(shorter(BURSTS.map(|calls| catalogue::burst(Kind::Bucket, None, 1, true, calls))));
}

#[test]
fn bursts_of_four_processes_beside_their_batches_meet_no_refusal() {
    hold(shorter([catalogue::burst(Kind::Bucket, None, 4, true, 50)]));
}

#[test]
fn bursts_onto_windows_meet_hardly_any_refusal() {
    hold(shorter([Kind::Sliding, Kind::Tens].map(|kind| catalogue::burst(kind, None, 1, true, 50))));
}

#[test]
fn a_hidden_window_costs_a_handful_of_refusals_once_and_no_caller_sees_them() {
    for hidden in [Kind::Tens, Kind::Ones] {
        hold(shorter(BURSTS.map(|calls| catalogue::burst(Kind::Bucket, Some(hidden), 1, false, calls))));
        hold(shorter([catalogue::burst(Kind::Bucket, Some(hidden), 1, true, 50)]));
    }
    hold(shorter([catalogue::burst(Kind::Ones, None, 1, true, 50)]));
}

#[test]
fn slots_that_nobody_counts_for_us_are_found_by_their_refusals() {
    hold([catalogue::slots(5, Full::Refuse, 0.0), catalogue::slots(20, Full::Refuse, 0.03)]);
}

#[test]
fn slots_that_nobody_counts_for_us_are_found_by_their_resets() {
    hold([catalogue::slots(5, Full::Reset, 0.03)]);
    hold(shorter([catalogue::slots(100, Full::Reset, 0.0)]));
}

#[test]
fn a_server_that_only_slows_down_is_kept_busy_and_no_busier() {
    hold(shorter([8, 32].map(catalogue::queue)));
}

#[test]
fn a_cap_of_the_users_is_never_exceeded_as_the_server_counts() {
    hold([
        catalogue::cap(Kind::Bucket, true, 100),
        catalogue::cap(Kind::Sliding, true, 250),
        catalogue::cap(Kind::Bucket, true, 500),
        catalogue::cap(Kind::Minute, false, 250),
    ]);
}

#[test]
fn the_bounds_tell_a_bad_client_from_a_good_one() {
    let scenario = catalogue::scenario("rpm", Kind::Bucket).expect("a scenario of that name");
    let broken = |client| {
        let findings = world::run(&scenario, client, SEED).findings().into_iter().filter(|finding| !finding.holds());
        findings.map(|finding| finding.to_string()).collect::<Vec<_>>()
    };
    let naive = broken(Client::Naive).join("\n");
    for what in ["calls whose caller got an error", "share of the limit used", "429s"] {
        assert!(naive.contains(what), "{naive}");
    }
    assert!(broken(Client::Paced).is_empty(), "told the true limit, fixed pacing holds: {:?}", broken(Client::Paced));
}

/// Schedules drawn for the test below; `FOREBAY_SEEDS` asks for more.
const SCHEDULES: u64 = 40;

#[test]
fn whatever_the_schedule_every_call_has_its_end_and_no_cap_is_exceeded() {
    let seeds = std::env::var("FOREBAY_SEEDS").map_or(SCHEDULES, |seeds| seeds.parse().expect("a number of seeds"));
    let runs = (1..=seeds).map(|seed| world::run(&catalogue::whatever(seed), Client::Forebay, seed));
    let broken = runs.filter(|run| run.stuck() > 0 || run.worst_minute() > 1.0).map(|run| run.to_string());
    let broken: Vec<String> = broken.collect();
    // `FOREBAY_ONLY=whatever/7 cargo bench --profile tune --bench limits` plays one of them again.
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_log() {
    let named = |name, kind| catalogue::scenario(name, kind).expect("a scenario of that name");
    let scenarios = [
        named("shared4", Kind::Tens),
        named("tpm_stream", Kind::Sliding),
        named("blind", Kind::Minute),
        catalogue::burst(Kind::Bucket, Some(Kind::Ones), 1, true, 50),
        catalogue::slots(20, Full::Reset, 0.03),
        catalogue::queue(8),
    ];
    for scenario in scenarios.map(|scenario| scenario.lasting(200.0)) {
        let [one, other, third] = [1, 1, 2].map(|seed| world::run(&scenario, Client::Forebay, seed));
        assert!(one.log.len() > 50, "{one}");
        assert_eq!(one.log, other.log, "{one}\n{other}");
        assert_eq!(one.print(), other.print(), "{one}\n{other}");
        assert_ne!(one.print(), third.print(), "{one}");
    }
}
