//! The end of the gateway, step by step.

use tokio::sync::watch;

/// How far the gateway's end has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    /// Connections are taken.
    Open,
    /// No more connections are taken; those that wait to be are the last.
    Shut,
    /// Connections end once they are idle.
    Closing,
    /// Those without a whole request end, too: new ones, half a head, the rest of a refused body.
    Cutting,
}

/// Resolves when the gateway has come to `stage`, or its handle is gone.
pub(super) async fn until(mut stage: watch::Receiver<Stage>, is: Stage) {
    // An error means that the handle is gone.
    drop(stage.wait_for(|now| *now >= is).await);
}
