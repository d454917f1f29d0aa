//! A row of bars, one character each: `▁▁▂█▅`.

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Bars for the values, the highest for `top` and above; the lowest for what is almost nothing.
pub fn sparkline(values: &[f64], top: f64) -> String {
    values.iter().map(|value| BARS[level(*value, top)]).collect()
}

fn level(value: f64, top: f64) -> usize {
    if top <= 0.0 || value.is_nan() {
        return 0;
    }
    // The first bar whose upper edge holds the value.
    (1..BARS.len()).find(|bar| value * 8.0 <= top * index(*bar)).map_or(7, |bar| bar - 1)
}

fn index(bar: usize) -> f64 {
    u32::try_from(bar).map_or(f64::MAX, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_their_values() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 4.0, 8.0, 9.0], 8.0), "▁▁▂▄██");
        assert_eq!(sparkline(&[0.0, f64::NAN], 0.0), "▁▁");
    }
}
