//! Many callers at once on wires that break under some of them.

use std::sync::{Arc, Condvar, Mutex};

use futures_util::StreamExt as _;
use futures_util::future::join_all;

use super::faults::{BROKEN, CUT, NOT_HTTP};
use super::own::Own;
use super::stage::{Ask, OWN, Stage};
use crate::pool::transport::tests::peer::{Asked, Conn};
use crate::pool::transport::tests::rig::run;

/// Holds every answer until so many requests are there.
struct Gate {
    waiting: Mutex<usize>,
    open: Condvar,
    size: usize,
}

impl Gate {
    fn pass(&self) {
        let mut waiting = self.waiting.lock().unwrap();
        *waiting += 1;
        self.open.notify_all();
        let goal = waiting.div_ceil(self.size) * self.size;
        drop(self.open.wait_while(waiting, |waiting| *waiting < goal).unwrap());
    }
}

#[test]
fn fifty_calls_at_once_on_an_empty_pool_dial_fifty_times_and_get_their_own_answers() {
    for tls in [false, true] {
        run(async {
            let gate = Arc::new(Gate { waiting: Mutex::new(0), open: Condvar::new(), size: 50 });
            // Four accounts: one starts with sixteen.
            let keys: Vec<String> = (0..4).map(|n| format!("sk-test-000000{n}")).collect();
            let keys = format!("retry = {{ max_attempts = 1 }}\napi_keys = {keys:?}");
            let stage = Stage::of(tls, &keys, move |conn, asked| {
                gate.pass();
                conn.say(Own::to(asked).sized()).map(|()| true)
            })
            .await;
            for round in ["cold", "warm"] {
                let calls =
                    (0..50).map(|n| {
                        let (stage, word) = (&stage, format!("word {n} {round}"));
                        async move {
                            stage.hear(Ask { fault: "", word: &word, is_stream: n % 2 == 1, is_large: false }).await
                        }
                    });
                let heard = join_all(calls).await;
                assert!(heard.iter().all(|heard| heard == OWN), "{heard:?}");
                assert_eq!(stage.peer.connections(), 50, "{round}: a kept connection is enough for the second");
            }
        });
    }
}

/// What each of ten callers in turn meets.
const MIXED: [&str; 10] = ["", "103", "", "100 and 102", "cut", "", "103 later", "second", "garbage", ""];

fn mixed(conn: &mut Conn, asked: &Asked) -> std::io::Result<bool> {
    let own = Own::to(asked);
    match asked.fault.as_deref() {
        Some("103") => conn.say(format!("HTTP/1.1 103 X\r\nlink: <x>\r\n\r\n{}", own.sized()))?,
        Some("100 and 102") => conn.say(format!("HTTP/1.1 100 X\r\n\r\nHTTP/1.1 102 X\r\n\r\n{}", own.chunked()))?,
        Some("103 later") => {
            conn.say("HTTP/1.1 103 X\r\n\r\n")?;
            conn.pause();
            conn.say(own.sized())?;
        }
        Some("cut") => return conn.say(own.half_chunked()).and_then(|()| conn.finish()),
        Some("second") => conn.say(own.sized() + &own.sized())?,
        Some("garbage") => conn.say("HTTP/1.1 garbage\r\n\r\n")?,
        _ => conn.say(own.sized())?,
    }
    Ok(true)
}

#[test]
fn of_six_hundred_mixed_calls_none_gets_anothers_answer() {
    for tls in [false, true] {
        run(async {
            let keys = "retry = { max_attempts = 1 }\nlimits = { max_concurrent = 40 }";
            let stage = Stage::of(tls, keys, mixed).await;
            let heard = futures_util::stream::iter(0..600).map(|n| {
                let stage = &stage;
                async move {
                    let (fault, word, is_stream) = (MIXED[n % 10], format!("word {n}"), n % 3 == 0);
                    let heard = stage.hear(Ask { fault, word: &word, is_stream, is_large: false }).await;
                    let due = match fault {
                        "cut" if is_stream => BROKEN,
                        "cut" => CUT,
                        "garbage" => NOT_HTTP,
                        _ => OWN,
                    };
                    (heard != due).then_some(heard)
                }
            });
            let wrong: Vec<String> = heard.buffer_unordered(40).filter_map(std::future::ready).collect().await;
            println!(
                "600 mixed calls, tls {tls}: {} mixed up, over {} connections",
                wrong.len(),
                stage.peer.connections()
            );
            assert!(wrong.is_empty(), "{wrong:?}");
        });
    }
}
