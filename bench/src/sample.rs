//! Repeated measurements, taken in turns so that a busy minute hits all of them.

use serde_json::{Value, json};

use crate::Result;

/// What one contestant needed, in milliseconds, in the order it was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    pub(crate) name: String,
    values: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: &str, values: Vec<f64>) -> Self {
        Self { name: name.to_owned(), values }
    }

    /// The value below which this share of the measurements lies.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        sorted.get((last * share).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// How far the median lies above the minimum: the noise of the minute.
    pub(crate) fn noise(&self) -> f64 {
        self.median() / self.min() - 1.0
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "name": self.name, "repetitions": self.values.len(), "min": self.min(),
            "median": self.median(), "p90": self.quantile(0.9), "noise": self.noise(),
        })
    }
}

/// Somebody who takes part: a name, and one measurement in milliseconds.
pub(crate) type Racer<'a> = (&'a str, Box<dyn FnMut() -> Result<f64> + 'a>);

/// Has all of them measure once unmeasured, then in turns.
pub(crate) fn in_turns(repetitions: usize, racers: &mut [Racer<'_>]) -> Result<Vec<Series>> {
    let mut all: Vec<Series> = racers.iter().map(|(name, _)| Series::new(name, vec![])).collect();
    for turn in 0..=repetitions {
        for ((_, measure), series) in racers.iter_mut().zip(&mut all) {
            let value = measure()?;
            if turn > 0 {
                series.values.push(value);
            }
        }
    }
    Ok(all)
}

/// The slope of the straight line that fits the points best.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / count, y + p.1 / count));
    let rise: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let run: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    rise / run
}

#[cfg(test)]
mod tests {
    use super::{Series, slope};

    #[test]
    fn a_slope_counts_round_trips() {
        assert!((slope(&[(0.0, 5.0), (40.0, 85.0), (80.0, 165.0)]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_measurements() {
        let series = Series::new("x", vec![9.0, 1.0, 5.0]);
        assert_eq!((series.min(), series.median(), series.quantile(0.9)), (1.0, 5.0, 9.0));
        assert_eq!(series.noise(), 4.0);
    }
}
