//! How estimates of tokens are off, from what was charged in the end.

/// The mean of charged to estimated, over some twenty calls.
#[derive(Debug)]
pub(super) struct Correction(f64);

const SHARE: f64 = 0.05;

/// What a single answer may claim: usage is the provider's word, and may be nonsense.
const LEAST: f64 = 0.02;
const MOST: f64 = 20.0;

impl Default for Correction {
    fn default() -> Self {
        Self(1.0)
    }
}

impl Correction {
    pub(super) fn known(ratio: f64) -> Self {
        Self(ratio.clamp(LEAST, MOST))
    }

    pub(super) fn ratio(&self) -> f64 {
        self.0
    }

    /// What so many estimated tokens are taken for.
    pub(super) fn of(&self, estimated: u64) -> u64 {
        // The cast saturates.
        (estimated as f64 * self.0).ceil() as u64
    }

    /// A call was estimated at that and charged this.
    pub(super) fn hear(&mut self, estimated: u64, charged: u64) {
        if estimated > 0 {
            let ratio = (charged as f64 / estimated as f64).clamp(LEAST, MOST);
            self.0 += SHARE * (ratio - self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_are_corrected_within_some_sixty_calls_and_rounded_up() {
        let mut correction = Correction::default();
        assert_eq!(correction.of(1_001), 1_001, "before anything is known an estimate stands");
        (0..60).for_each(|_| correction.hear(1_000, 250));
        assert!((0.25..0.30).contains(&correction.ratio()), "{}", correction.ratio());
        assert_eq!((correction.of(0), correction.of(1)), (0, 1));
        (0..60).for_each(|_| correction.hear(1_000, 2_000));
        assert!((1.9..=2.0).contains(&correction.ratio()), "{}", correction.ratio());
    }

    #[test]
    fn one_odd_answer_moves_little_and_no_number_breaks_it() {
        let mut correction = Correction::default();
        correction.hear(0, 1_000);
        assert_eq!(correction.ratio(), 1.0, "what was not estimated says nothing of estimates");
        correction.hear(1, u64::MAX);
        assert!(correction.ratio() <= 1.0 + SHARE * MOST);
        (0..1_000).for_each(|_| correction.hear(u64::MAX, 0));
        assert!(correction.ratio() >= LEAST);
        assert_eq!(Correction::known(f64::INFINITY).of(u64::MAX), u64::MAX);
        assert_eq!(Correction::known(0.0).ratio(), LEAST);
    }
}
