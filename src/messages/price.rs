//! What tokens cost.

use super::Usage;

/// What a model's tokens cost, in US$ per million.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct Price {
    /// Tokens read.
    pub input: f64,
    /// Of those, the ones the upstream had in its cache.
    pub cached_input: f64,
    /// Tokens written.
    pub output: f64,
}

impl Price {
    /// Prices per million tokens; what is cached costs as much as what is not where nothing else is said.
    pub fn new(input: f64, cached_input: Option<f64>, output: f64) -> Self {
        Self { input, cached_input: cached_input.unwrap_or(input), output }
    }

    /// What a call of this usage costs, in US$.
    pub fn of(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let (fresh, cached) = ((usage.input_tokens - cached) as f64, cached as f64);
        let output = usage.tokens().output as f64;
        (fresh * self.input + cached * self.cached_input + output * self.output) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cached_costs_its_own_price_and_no_more_than_all_was_cached() {
        let price = Price::new(2.5, Some(1.25), 10.0);
        let usage = |input_tokens, cached_input_tokens, output_tokens| Usage {
            input_tokens,
            cached_input_tokens,
            output_tokens,
            total_tokens: input_tokens + output_tokens,
        };
        for (usage, expected) in [
            (usage(1_000_000, 0, 0), 2.5),
            (usage(1_000_000, 400_000, 0), 1.5 + 0.5),
            (usage(1_000_000, 9_000_000, 0), 1.25),
            (usage(0, 0, 500_000), 5.0),
        ] {
            assert!((price.of(&usage) - expected).abs() < 1e-9, "{usage:?}: {}", price.of(&usage));
        }
        assert_eq!(Price::new(3.0, None, 0.0).of(&usage(1_000_000, 1_000_000, 0)), 3.0);
        // What the upstream's sum has beside what it names was written, too.
        let hidden = Usage { total_tokens: 2_000_000, ..usage(1_000_000, 0, 0) };
        assert_eq!(price.of(&hidden), 12.5);
    }
}
