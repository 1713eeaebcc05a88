//! Every fault in turn, over TCP and over TLS, on a fresh connection and on a kept one: what its caller hears, and what
//! the next caller on the same pool does.

use super::fault::{Fault, NEVER};
use super::faults::faults;
use super::own::Own;
use super::stage::{Ask, OWN, Stage};
use crate::pool::transport::tests::peer::{Asked, Conn};
use crate::pool::transport::tests::rig::run;

/// What the fault at this place comes to, asked for so: this caller's end and the next one's.
type Heard = Vec<Option<[String; 2]>>;

/// Answers, and closes so that the next exchange is on a fresh connection.
const CLOSE: &str = "close";

/// Does what the request says shall be done: `17`, or `early-17` for what leaves the request's body unread.
fn script(conn: &mut Conn, asked: &Asked) -> std::io::Result<bool> {
    thread_local!(static FAULTS: Vec<Fault> = faults());
    let own = Own::to(asked);
    let Some(fault) = &asked.fault else { return conn.say(own.sized()).map(|()| true) };
    if fault == CLOSE {
        conn.say(own.sized_by(&["connection: close"]))?;
        return conn.finish();
    }
    let at: usize = fault.trim_start_matches("early-").parse().expect("a place in the table");
    FAULTS.with(|faults| faults[at].befall(conn, &own))
}

async fn hear(tls: bool, is_stream: bool) -> Heard {
    let stage = Stage::plain(tls, script).await;
    let mut all = Vec::new();
    for (n, fault) in faults().iter().enumerate() {
        if fault.heard(tls, is_stream) == NEVER {
            all.push(None);
            continue;
        }
        let name = if fault.is_early { format!("early-{n}") } else { n.to_string() };
        let mut rounds = Vec::new();
        for (round, before) in [("fresh", CLOSE), ("kept", "")] {
            let other =
                async |fault, word: String| stage.hear(Ask { fault, word: &word, is_stream, is_large: false }).await;
            assert_eq!(other(before, format!("before {n} {round}")).await, OWN);
            let dialled = stage.peer.connections();
            let ask = Ask { fault: &name, word: &format!("word {n} {round}"), is_stream, is_large: fault.is_early };
            let heard = stage.hear(ask).await;
            let is_fresh = stage.peer.connections() == dialled + 1;
            assert_eq!(is_fresh, round == "fresh", "the connection that meets: {}", fault.name);
            rounds.push([heard, other("", format!("after {n} {round}")).await]);
        }
        if rounds[0] != rounds[1] {
            rounds[1].iter_mut().for_each(|end| *end = format!("DIFFERENT on a kept connection: {end}"));
        }
        all.push(rounds.pop());
    }
    all
}

#[test]
fn whatever_befalls_a_wire_its_caller_hears_of_it_and_the_next_one_gets_its_own_answer() {
    let ways = [(false, false), (true, false), (false, true), (true, true)];
    let [whole, whole_tls, stream, stream_tls] = std::thread::scope(|scope| {
        ways.map(|(tls, is_stream)| scope.spawn(move || run(hear(tls, is_stream))))
            .map(|thread| thread.join().expect("no fault ends a test"))
    });
    let mut wrong = Vec::new();
    print("fault", "asked", "over TCP its caller hears", "the next", "over TLS its caller hears", "the next");
    for (n, fault) in faults().iter().enumerate() {
        for (asked, tcp, tls) in [("whole", &whole[n], &whole_tls[n]), ("stream", &stream[n], &stream_tls[n])] {
            let (Some(tcp), Some(tls)) = (tcp, tls) else { continue };
            let told = if tls[0] == tcp[0] { "the same" } else { &tls[0] };
            print(fault.name, asked, &tcp[0], &tcp[1], told, &tls[1]);
            for (is_tls, heard) in [(false, tcp), (true, tls)] {
                let due = [fault.heard(is_tls, asked == "stream"), OWN];
                if *heard != due {
                    wrong.push(format!("{}, {asked}, tls {is_tls}: {heard:?}, not {due:?}", fault.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn print(fault: &str, asked: &str, tcp: &str, next: &str, tls: &str, next_over_tls: &str) {
    println!("{fault:38} | {asked:6} | {tcp:77} | {next:14} | {tls:77} | {next_over_tls}");
}
