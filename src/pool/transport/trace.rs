//! What is known of one exchange below awc: did a byte of it leave, and on which connection.
//!
//! awc tells "refused" from "cut" only roughly and never says whether a byte was written. So the future that sends is
//! polled inside a scope, and the connection that takes the first write finds the exchange there and reports to it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::messages::Sent;

thread_local! {
    /// The exchange whose future is being polled on this thread.
    static CURRENT: RefCell<Option<Rc<Exchange>>> = const { RefCell::new(None) };
}

/// One exchange, as its connection sees it.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Whether a byte of the request left, or may have.
    touched: Cell<bool>,
    /// Whether the connection had carried an exchange before: then a cut may be no more than a keep-alive race.
    reused: Cell<bool>,
    /// Whether a byte of an answer came.
    answered: Cell<bool>,
}

impl Exchange {
    /// The exchange being polled on this thread, if one is.
    pub(super) fn current() -> Option<Rc<Self>> {
        CURRENT.with(|current| current.borrow().clone())
    }

    /// A connection takes the exchange on.
    pub(super) fn carried_by(&self, reused: bool) {
        self.reused.set(reused);
    }

    /// Some of the request left, or may have.
    pub(super) fn touch(&self) {
        self.touched.set(true);
    }

    /// Something was answered.
    pub(super) fn hear(&self) {
        self.answered.set(true);
    }

    /// Whether the peer may have seen the request.
    pub(super) fn sent(&self) -> Sent {
        if self.touched.get() { Sent::Maybe } else { Sent::No }
    }

    /// What to add to an error's detail.
    pub(super) fn remark(&self) -> &'static str {
        match (self.reused.get(), self.answered.get()) {
            (true, false) => " (kept connection, nothing answered)",
            (true, true) => " (kept connection)",
            (false, _) => "",
        }
    }
}

/// Polls `future` with `exchange` as the current one.
pub(super) fn scope<F: Future + Unpin>(exchange: Rc<Exchange>, future: F) -> Scope<F> {
    Scope { exchange, future }
}

/// See [`scope`].
pub(super) struct Scope<F> {
    exchange: Rc<Exchange>,
    future: F,
}

impl<F: Future + Unpin> Future for Scope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = CURRENT.with(|current| current.replace(Some(self.exchange.clone())));
        let _restore = Restore(before); // a guard: a panic that supervision catches must not leave the exchange behind
        Pin::new(&mut self.future).poll(cx)
    }
}

struct Restore(Option<Rc<Exchange>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(self.0.take()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_current_only_while_its_own_future_is_polled() {
        let exchange = Rc::new(Exchange::default());
        let seen = scope(exchange.clone(), std::future::poll_fn(|_| Poll::Ready(Exchange::current())));
        let seen = futures_util::FutureExt::now_or_never(seen).flatten().expect("an exchange");
        assert!(Rc::ptr_eq(&seen, &exchange));
        assert!(Exchange::current().is_none());
    }

    #[test]
    fn a_panic_does_not_leave_the_exchange_behind() {
        let panicking = scope(Rc::default(), std::future::poll_fn(|_| -> Poll<()> { panic!("as asked") }));
        let caught =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| futures_util::FutureExt::now_or_never(panicking)));
        assert!(caught.is_err());
        assert!(Exchange::current().is_none());
    }
}
