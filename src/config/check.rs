//! Finds every problem at once.
/// stub
#[derive(Debug, Clone)]
pub struct Problem;
/// stub
#[derive(Debug, Clone)]
pub struct Problems(pub Vec<Problem>);
