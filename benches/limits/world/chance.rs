//! The distributions the world draws from, all from seeded dice.

use forebay::clock::Dice;

/// Dice for one purpose of one run: what one part of the world draws moves nothing in another.
pub fn dice(seed: u64, purpose: u64) -> Dice {
    // Spread by the golden ratio, so that neighbouring seeds share nothing.
    Dice::seeded((seed << 32 | purpose).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Exponential with this mean.
pub fn exponential(dice: &mut Dice, mean: f64) -> f64 {
    -mean * (1.0 - dice.fraction()).ln()
}

/// Lognormal: `median` times e to a normal of deviation `sigma`.
pub fn lognormal(dice: &mut Dice, median: f64, sigma: f64) -> f64 {
    median * (sigma * normal(dice)).exp()
}

/// Standard normal, by Box and Muller.
pub fn normal(dice: &mut Dice) -> f64 {
    let radius = (-2.0 * (1.0 - dice.fraction()).ln()).sqrt();
    radius * (std::f64::consts::TAU * dice.fraction()).cos()
}
