//! What befalls the system while it works: weather, refused keys, reloads, and the deaths of its parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use super::record::Draw;
use super::scenes::Weather;
use super::world::World;
use crate::clock;
use crate::dispatcher::CrashIn;
use crate::messages::{SeatId, Stop};
use crate::pool::{KillSeat, KillSlot};
use crate::system::Forebay;

/// A third death within a minute would end the system; a little more, because the root counts when it hears of it.
const MINUTE: Duration = Duration::from_secs(61);

async fn pause(draw: &mut Draw, low: u64, high: u64) {
    let length = draw.millis(low, high);
    clock::until(clock::now() + length).await;
}

/// Changes what the upstreams are like and what the configuration says.
pub(super) async fn changes(forebay: Forebay, world: Arc<World>, mut plan: Plan, mut draw: Draw) {
    use Weather::*;
    // How often the operator reloads differs from run to run.
    let reloads = draw.pick(&[2, 6, 1_000]);
    loop {
        pause(&mut draw, 200, 15_000).await;
        let Some(upstream) = plan.upstreams.get(draw.below(3) as usize) else { continue };
        match draw.below(8) {
            0..=3 => {
                let weather =
                    draw.pick(&[Fine, Fine, Fine, Fine, Flaky, Flaky, Flaky, Crowded, Crowded, Silent, Down, Deadly]);
                world.set_weather(upstream.name, weather);
            }
            4 => world.turn_key(&draw.pick(&upstream.keys)),
            _ if draw.one_in(reloads) => {
                plan = plan.redraw(&mut draw);
                world.record.note(format_args!("reload: {:?}", plan.upstreams));
                world.put_in_force(&plan);
                forebay.reconfigure(plan.config());
            }
            _ => {}
        }
    }
}

/// In one of two runs upstreams go away one after the other, for long enough to be taken for broken, and come back.
pub(super) async fn outages(world: Arc<World>, upstreams: Vec<&'static str>, mut draw: Draw) {
    if draw.one_in(2) {
        return;
    }
    loop {
        pause(&mut draw, 1_000, 40_000).await;
        let upstream = draw.pick(&upstreams);
        world.set_away(upstream, true);
        pause(&mut draw, 12_000, 60_000).await;
        world.set_away(upstream, false);
    }
}

/// Kills parts of the system: slots as they come, dispatcher and supervisor no more often than it bears, unless `doomed`.
pub(super) async fn deaths(forebay: Forebay, world: Arc<World>, doomed: bool, mut draw: Draw) {
    let mut recent = VecDeque::new();
    loop {
        pause(&mut draw, 500, if doomed { 10_000 } else { 60_000 }).await;
        if draw.one_in(2) {
            if draw.one_in(4) {
                world.record.kill("the seat", false);
                forebay.supervisor().do_send(KillSeat(SeatId(0)));
                pause(&mut draw, 20_000, 30_000).await; // more than three of them within a minute would end the system
            } else {
                world.record.kill("a slot", false);
                forebay.supervisor().do_send(KillSlot(draw.below(6) as u32));
            }
            continue;
        }
        while recent.front().is_some_and(|at| clock::now() > *at + MINUTE) {
            recent.pop_front();
        }
        if recent.len() >= 2 && !doomed {
            continue;
        }
        if draw.one_in(3) {
            world.record.kill("the supervisor", true);
            forebay.supervisor().do_send(Stop);
        } else {
            let dispatcher = forebay.dispatcher();
            dispatcher.do_send(CrashIn(draw.between(1, 40) as u32));
            while dispatcher.connected() {
                clock::until(clock::now() + Duration::from_millis(50)).await;
            }
        }
        recent.push_back(clock::now());
    }
}
