//! How far the level that was believed is trusted: as much is kept back as it was wrong of late.

/// What is kept back, in the budget's own unit. It follows the 99th percentile of the error: a miss raises it by 99 times
/// what a hit lowers it by, in steps that are a share of itself (H. Robbins, S. Monro, "A stochastic approximation
/// method", 1951, for a quantile).
#[derive(Debug, Default)]
pub(super) struct Margin(f64);

const QUANTILE: f64 = 0.99;
const STEP: f64 = 0.25;

/// Never more than this share of the limit: what is kept back for good would keep calls for good.
const MOST: f64 = 0.1;

impl Margin {
    pub(super) fn get(&self) -> f64 {
        self.0
    }

    pub(super) fn known(margin: f64) -> Self {
        Self(margin.max(0.0))
    }

    /// The level was believed `over` higher than it was, of a `limit`.
    pub(super) fn hear(&mut self, over: f64, limit: f64) {
        let step = STEP * self.0.max(limit / 2_000.0);
        let change = if over > self.0 { QUANTILE } else { QUANTILE - 1.0 };
        self.0 = (self.0 + step * change).clamp(0.0, MOST * limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Dice;

    #[test]
    fn it_covers_all_but_a_hundredth_of_the_errors_and_falls_when_they_are_gone() {
        let (mut margin, mut dice) = (Margin::default(), Dice::seeded(1));
        let mut beyond = 0;
        for n in 0..20_000 {
            let over = 20.0 * dice.fraction() - 10.0;
            beyond += u32::from(n >= 10_000 && over > margin.get());
            margin.hear(over, 500.0);
        }
        assert!((20..400).contains(&beyond), "{beyond} of 10000");
        (0..5_000).for_each(|_| margin.hear(-1.0, 500.0));
        assert!(margin.get() < 1.0, "{}", margin.get());
    }
}
