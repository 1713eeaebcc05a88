//! What calls to one model have used, cost and taken.

use std::collections::VecDeque;
use std::time::Duration;

use crate::messages::{LatencyStatus, Price, Usage, UsedStatus};

/// Latencies that are looked at: enough for a 95th percentile, few enough to sort when somebody asks.
const RECENT: usize = 128;

/// Sums since the start, and the last latencies.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: u64,
    without_usage: u64,
    without_price: u64,
    /// `total_tokens` is not summed up.
    used: Usage,
    cost_usd: f64,
    latencies: VecDeque<Duration>,
}

impl Tally {
    /// A call was answered, or the first content of its stream was, so long after its send.
    pub(super) fn answered(&mut self, latency: Duration) {
        self.calls += 1;
        if self.latencies.len() == RECENT {
            self.latencies.pop_front();
        }
        self.latencies.push_back(latency);
    }

    /// The upstream has said what an answered call used, or never will. Says what it cost.
    pub(super) fn settled(&mut self, usage: Option<Usage>, price: Option<Price>) -> Option<f64> {
        let Some(usage) = usage else {
            self.without_usage += 1;
            return None;
        };
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.used.input_tokens, usage.input_tokens);
        add(&mut self.used.cached_input_tokens, usage.cached_input_tokens);
        add(&mut self.used.output_tokens, usage.tokens().output);
        let cost = price.map(|price| price.of(&usage));
        match cost {
            Some(cost) => self.cost_usd += cost,
            None => self.without_price += 1,
        }
        cost
    }

    /// The same as it is shown.
    pub(super) fn status(&self, model: Option<String>) -> UsedStatus {
        let mut latencies: Vec<Duration> = self.latencies.iter().copied().collect();
        latencies.sort();
        let percentile = |hundredths: usize| {
            let rank = (latencies.len() * hundredths).div_ceil(100).max(1);
            latencies.get(rank - 1).map(Duration::as_secs_f64)
        };
        UsedStatus {
            model,
            calls: self.calls,
            calls_without_usage: self.without_usage,
            calls_without_price: self.without_price,
            input_tokens: self.used.input_tokens,
            cached_input_tokens: self.used.cached_input_tokens,
            output_tokens: self.used.output_tokens,
            cost_usd: self.cost_usd,
            latency: LatencyStatus { calls: latencies.len(), p50_s: percentile(50), p95_s: percentile(95) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_in_no_sum_and_counted() {
        let mut tally = Tally::default();
        let usage = Usage { input_tokens: 1_000, cached_input_tokens: 400, output_tokens: 10, total_tokens: 1_010 };
        let price = Price::new(10.0, Some(1.0), 100.0);
        for _ in 0..3 {
            tally.answered(Duration::from_secs(1));
        }
        let cost = tally.settled(Some(usage), Some(price)).expect("a price");
        assert!((cost - 0.0074).abs() < 1e-12, "{cost}");
        assert_eq!(tally.settled(Some(usage), None), None);
        assert_eq!(tally.settled(None, Some(price)), None);
        let status = tally.status(None);
        assert_eq!((status.calls, status.calls_without_usage, status.calls_without_price), (3, 1, 1));
        assert_eq!((status.input_tokens, status.cached_input_tokens, status.output_tokens), (2_000, 800, 20));
        assert!((status.cost_usd - 0.0074).abs() < 1e-12);
    }

    #[test]
    fn latencies_are_those_of_the_last_calls() {
        let mut tally = Tally::default();
        assert_eq!(tally.status(None).latency, LatencyStatus::default());
        for n in 0..1_000u64 {
            tally.answered(Duration::from_secs(n));
        }
        let latency = tally.status(None).latency;
        assert_eq!((latency.calls, latency.p50_s, latency.p95_s), (RECENT, Some(935.0), Some(993.0)));
    }
}
