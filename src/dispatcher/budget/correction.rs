//! How estimates of tokens are off, from what was charged in the end.

/// The mean of charged to estimated, over some twenty calls, and how far single calls are off it.
#[derive(Debug)]
pub(super) struct Correction {
    ratio: f64,
    /// The mean square of how far a call is off the mean.
    square: f64,
}

const SHARE: f64 = 0.05;

/// How far calls are off is a mean over some fifty: of fewer it would be too low too often.
const SQUARE_SHARE: f64 = 0.02;

/// The square of how far such a mean is off, of that of single calls.
pub(super) const MEAN_SQUARE: f64 = SHARE / (2.0 - SHARE);

/// What a single answer may claim: usage is the provider's word, and may be nonsense.
const LEAST: f64 = 0.02;
const MOST: f64 = 20.0;

impl Default for Correction {
    fn default() -> Self {
        Self { ratio: 1.0, square: 0.0 }
    }
}

impl Correction {
    pub(super) fn known(ratio: f64) -> Self {
        let ratio = ratio.clamp(LEAST, MOST);
        // How far single calls are off is not remembered: as far, perhaps, as the mean is.
        Self { ratio, square: (1.0 - ratio).powi(2) }
    }

    pub(super) fn ratio(&self) -> f64 {
        self.ratio
    }

    /// How far what is made of so many estimated tokens may be off, as a standard deviation.
    pub(super) fn deviation(&self, estimated: u64) -> f64 {
        estimated as f64 * self.square.sqrt()
    }

    /// What so many estimated tokens are taken for.
    pub(super) fn of(&self, estimated: u64) -> u64 {
        // The cast saturates.
        (estimated as f64 * self.ratio).ceil() as u64
    }

    /// A call was estimated at that and charged this.
    pub(super) fn hear(&mut self, estimated: u64, charged: u64) {
        if estimated > 0 {
            let ratio = (charged as f64 / estimated as f64).clamp(LEAST, MOST);
            let off = ratio - self.ratio;
            self.ratio += SHARE * off;
            self.square += SQUARE_SHARE * (off * off - self.square);
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
    fn how_far_calls_are_off_the_mean_is_known_once_they_were_heard() {
        let mut correction = Correction::default();
        assert_eq!(correction.deviation(1_000), 0.0);
        (0..200).for_each(|n| correction.hear(1_000, if n % 2 == 0 { 600 } else { 800 }));
        assert!((90.0..110.0).contains(&correction.deviation(1_000)), "{}", correction.deviation(1_000));
        assert!((Correction::known(0.5).deviation(1_000) - 500.0).abs() < 1e-6);
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
