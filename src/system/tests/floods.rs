//! A flood of the dispatcher's mailbox starves nobody: neither its timers nor the thread's other tasks.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio::task::spawn_local;

use super::{chat, system};
use crate::Forebay;
use crate::clock::in_virtual_time;
use crate::dispatcher::{CrashIn, MESSAGES_PER_TURN, check};
use crate::messages::{CallId, Cancel};

const FLOOD: u64 = 100_000;

/// Posts messages that mean nothing, and counts how many of them have been dealt with from now on.
fn flood(forebay: &Forebay) {
    let stranger = CallId::new();
    let dispatcher = forebay.dispatcher();
    (0..FLOOD).for_each(|_| dispatcher.do_send(Cancel(stranger)));
    check::watch(|problem| panic!("{problem}"));
}

#[test]
fn a_flooded_mailbox_leaves_the_other_tasks_of_its_thread_their_turns() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        flood(&forebay);
        let (mut before, mut most) = (0, 0);
        while before < FLOOD {
            tokio::task::yield_now().await;
            most = most.max(check::steps() - before);
            before = check::steps();
        }
        check::unwatch();
        assert!(most <= u64::from(MESSAGES_PER_TURN), "{most} messages between two turns");
    });
}

#[test]
fn a_timer_that_is_due_fires_in_the_midst_of_a_flood_and_its_caller_hears_of_it() {
    in_virtual_time(async {
        let (forebay, times) = system("max_concurrent = 1").await;
        let call = spawn_local({
            let forebay = forebay.clone();
            async move { forebay.call(chat("x").with_timeout(Duration::from_millis(150))).await }
        });
        while times.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        flood(&forebay);
        tokio::time::advance(Duration::from_millis(150)).await;
        let before = check::steps();
        let outcome = call.await.expect("no panic");
        let until_told = check::steps() - before;
        check::unwatch();
        assert_eq!(outcome.expect_err("its time is up").code(), "deadline_exceeded");
        assert!(before < FLOOD / 10 && until_told <= 4 * u64::from(MESSAGES_PER_TURN), "{before}, {until_told}");
    });
}

#[test]
fn calls_on_their_way_to_a_dispatcher_that_crashes_or_is_gone_leave_no_count_behind() {
    in_virtual_time(async {
        let (forebay, _) = system("max_concurrent = 8").await;
        forebay.dispatcher().do_send(CrashIn(50));
        let calls = join_all((0..100).map(|_| forebay.call(chat("x"))));
        let mut calls = Box::pin(calls);
        assert!((&mut calls).now_or_never().is_none(), "they are on their way");
        assert_eq!(forebay.on_the_way(), 100);
        let outcomes = calls.await;
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.code() == "restarting")));
        assert_eq!((forebay.on_the_way(), forebay.held()), (0, 0));

        let mut dropped = Box::pin(join_all((0..100).map(|_| forebay.call(chat("x")))));
        assert!((&mut dropped).now_or_never().is_none());
        drop(dropped);
        assert_eq!(forebay.on_the_way(), 100, "what is in the mailbox counts until it has been dealt with");
        forebay.call(chat("x")).await.expect("answered");
        assert_eq!((forebay.on_the_way(), forebay.held()), (0, 0));

        forebay.shutdown(Duration::from_secs(1)).await;
        let late = join_all((0..100).map(|_| forebay.call(chat("x")))).await;
        assert!(late.iter().all(|outcome| outcome.as_ref().is_err_and(|error| error.code() == "draining")));
        assert_eq!((forebay.on_the_way(), forebay.held()), (0, 0));
    });
}
