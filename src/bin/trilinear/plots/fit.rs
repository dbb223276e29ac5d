//! Fits: the error of each rank, and how it fell.

use std::fmt::Write;
use std::ops::Range;

use anyhow::Result;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{OTHERS, OURS, draw, escape, page, table};
use crate::fit::{Fit, HEADINGS};

/// The whole file.
pub(crate) fn html(title: &str, fits: &[Fit]) -> Result<String> {
    let mut body = String::new();
    writeln!(body, "<h1>trilinear fit</h1>\n<pre>{}</pre>", escape(title))?;
    let by_rank: Vec<(f64, f64)> = fits.iter().map(|fit| (fit.rank as f64, fit.report.error)).collect();
    let dense = fits.first().map_or(0, |fit| fit.report.parameters[0]);
    let by_parameters: Vec<(f64, f64)> =
        fits.iter().map(|fit| (100.0 * fit.report.parameters[1] as f64 / dense as f64, fit.report.error)).collect();
    let chosen: Vec<usize> = (0..fits.len()).filter(|&at| fits[at].chosen).collect();
    writeln!(body, "<h2>Error of each rank</h2>\n{}", errors("rank", &by_rank, &chosen)?)?;
    writeln!(body, "<h2>Error of each size</h2>\n{}", errors("% of W's parameters", &by_parameters, &chosen)?)?;
    writeln!(body, "<h2>Error after each iteration</h2>\n{}", iterations(fits)?)?;
    writeln!(body, "<h2>All fits</h2>\n{}", table(&HEADINGS, fits.iter().map(Fit::cells))?)?;
    Ok(page("trilinear fit", &body))
}

/// From a half of the least to twice the most.
fn around(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    if least <= most { least / 1.5..most * 1.5 } else { 0.5..2.0 }
}

/// From 0 to a little more than the most.
fn up_to(values: impl Iterator<Item = f64>) -> Range<f64> {
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    0.0..if most > 0.0 { 1.08 * most } else { 1.0 }
}

/// A line through the points; those at `chosen` stand out.
fn errors(axis: &str, points: &[(f64, f64)], chosen: &[usize]) -> Result<String> {
    let x = around(points.iter().map(|point| point.0));
    let y = up_to(points.iter().map(|point| point.1));
    draw((960, 400), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x.log_scale(), y)?;
        mesh(&mut chart, axis)?;
        chart.draw_series(LineSeries::new(points.iter().copied(), OURS.stroke_width(2)))?;
        for (at, &point) in points.iter().enumerate() {
            let color = if chosen.contains(&at) { OTHERS[0] } else { OURS };
            let label = TextStyle::from(("sans-serif", 11)).color(&RGBColor(90, 90, 90));
            let text = Text::new(format!("{:.3}", point.1), (7, -14), label);
            chart.draw_series([EmptyElement::at(point) + Circle::new((0, 0), 4, color.filled()) + text])?;
        }
        Ok(())
    })
}

/// A line for each fit.
fn iterations(fits: &[Fit]) -> Result<String> {
    let longest = fits.iter().map(|fit| fit.report.errors.len()).max().unwrap_or(1);
    let y = up_to(fits.iter().flat_map(|fit| &fit.report.errors).copied());
    draw((960, 400), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(1.0..(longest.max(2) as f64), y)?;
        mesh(&mut chart, "iteration")?;
        for (at, fit) in fits.iter().enumerate() {
            let color = std::iter::once(OURS).chain(OTHERS).nth(at % (1 + OTHERS.len())).unwrap_or(OURS);
            let points = fit.report.errors.iter().enumerate().map(|(at, &error)| ((at + 1) as f64, error));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                .label(format!("rank {}", fit.rank))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()?;
        Ok(())
    })
}

type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

fn mesh<X, Y>(chart: &mut Chart<'_, '_, X, Y>, axis: &str) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    chart
        .configure_mesh()
        .light_line_style(RGBColor(240, 240, 240))
        .x_desc(axis)
        .y_desc("relative error")
        .label_style(("sans-serif", 13))
        .draw()?;
    Ok(())
}
