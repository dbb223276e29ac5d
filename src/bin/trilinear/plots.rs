//! `--save`: the report of `bench`, and in `fit` that of fits, as one HTML file with its plots inside.

use std::fmt::Write;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use trilinear::DType;

use crate::measure::Rival;
use crate::report::{self, Row};

mod fit;

pub(crate) use fit::html as fit_html;

const OURS: RGBColor = RGBColor(31, 87, 164);
const PREPARED: RGBColor = RGBColor(23, 158, 134);
/// Of the baselines, in the order in which they appear.
const OTHERS: [RGBColor; 9] = [
    RGBColor(214, 120, 40),
    RGBColor(240, 180, 110),
    RGBColor(150, 90, 160),
    RGBColor(200, 160, 205),
    RGBColor(120, 120, 120),
    RGBColor(185, 185, 185),
    RGBColor(170, 70, 70),
    RGBColor(220, 150, 150),
    RGBColor(110, 150, 60),
];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;font-size:13px}td,th{padding:3px 9px;border-bottom:1px solid #ddd;text-align:left}\
.table{overflow-x:auto}svg{max-width:100%;height:auto}pre{background:#f5f5f5;padding:1em;overflow-x:auto}";

/// The whole file.
pub(crate) fn html(machine: &str, rows: &[Row], skipped: &[String]) -> Result<String> {
    let mut body = String::new();
    let mut groups: Vec<(DType, Option<usize>)> = Vec::new();
    for row in rows {
        if !groups.contains(&(row.dtype, row.threads)) {
            groups.push((row.dtype, row.threads));
        }
    }
    for (dtype, threads) in groups {
        let rows: Vec<&Row> = rows.iter().filter(|row| row.dtype == dtype && row.threads == threads).collect();
        match threads {
            Some(threads) => writeln!(body, "<h2>{dtype}, {threads} thread(s)</h2>")?,
            None => writeln!(body, "<h2>{dtype}</h2>")?,
        }
        writeln!(body, "<h3>Roofline</h3>\n{}", roofline(&rows)?)?;
        writeln!(body, "<h3>Against baselines</h3>\n{}", bars(&rows)?)?;
    }
    let goals = rows.iter().any(|row| row.goal.is_some());
    let lines = rows.iter().map(|row| row.cells(goals));
    writeln!(body, "<h2>All rows</h2>\n{}", table(&report::headings(goals), lines)?)?;
    document(machine, body, skipped)
}

/// The file with this body.
pub(crate) fn document(machine: &str, mut body: String, skipped: &[String]) -> Result<String> {
    if !skipped.is_empty() {
        writeln!(body, "<h2>Skipped</h2>\n<ul>")?;
        for line in skipped {
            writeln!(body, "<li>{}</li>", escape(line))?;
        }
        writeln!(body, "</ul>")?;
    }
    Ok(page("trilinear bench", &format!("<h1>trilinear bench</h1>\n<pre>{}</pre>\n{body}", escape(machine))))
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(crate) fn table(headings: &[&str], lines: impl IntoIterator<Item = Vec<String>>) -> Result<String> {
    let mut html = String::from("<div class=\"table\"><table>\n");
    let mut line = |tag: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        writeln!(html, "<tr>{cells}</tr>")
    };
    line("th", &headings.iter().map(|&heading| heading.to_owned()).collect::<Vec<_>>())?;
    for cells in lines {
        line("td", &cells)?;
    }
    html.push_str("</table></div>\n");
    Ok(html)
}

/// GFLOP/s over FLOPs per byte, under what the machine allows: bandwidth on the left, peak on the right.
fn roofline(rows: &[&Row]) -> Result<String> {
    let most = |value: fn(&Row) -> f64| rows.iter().map(|row| value(row)).fold(0.0, f64::max);
    let least = |value: fn(&Row) -> f64| rows.iter().map(|row| value(row)).fold(f64::INFINITY, f64::min);
    let intensity: fn(&Row) -> f64 = |row| row.flops / row.bytes;
    let (peak, bandwidth) = (most(|row| row.peak) / 1e9, most(|row| row.bandwidth) / 1e9);
    if !(peak.is_finite() && bandwidth.is_finite()) {
        return Ok("<p>The peak of this device is unknown.</p>".into());
    }
    let corner = peak / bandwidth;
    let x = least(intensity).min(corner) / 2.0..most(intensity).max(corner) * 2.0;
    let y = least(Row::gflops).min(x.start * bandwidth) / 2.0..peak.max(most(Row::gflops)) * 2.0;
    draw((960, 520), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x.clone().log_scale(), y.clone().log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(RGBColor(240, 240, 240))
            .x_desc("FLOPs per byte that must be moved")
            .y_desc("GFLOP/s")
            .label_style(("sans-serif", 13))
            .draw()?;
        let roof = [(x.start, x.start * bandwidth), (corner, peak), (x.end, peak)];
        chart
            .draw_series(LineSeries::new(roof, BLACK.stroke_width(2)))?
            .label(format!("peak {peak:.1} GFLOP/s, reads {bandwidth:.1} GB/s"))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], BLACK.stroke_width(2)));
        for (prepared, name, color) in [(false, "ours", OURS), (true, "ours, prepared", PREPARED)] {
            let points: Vec<_> =
                rows.iter().filter(|row| row.prepared == prepared).map(|row| (intensity(row), row.gflops())).collect();
            if !points.is_empty() {
                chart
                    .draw_series(points.into_iter().map(|point| Circle::new(point, 4, color.filled())))?
                    .label(name)
                    .legend(move |(x, y)| Circle::new((x + 9, y), 4, color.filled()));
            }
        }
        let best: Vec<_> = rows
            .iter()
            .filter(|row| !row.prepared)
            .filter_map(|row| Some((intensity(row), row.flops / row.best_baseline()?.seconds / 1e9)))
            .collect();
        if !best.is_empty() {
            chart
                .draw_series(best.into_iter().map(|point| Cross::new(point, 4, OTHERS[0].stroke_width(2))))?
                .label("best baseline")
                .legend(|(x, y)| Cross::new((x + 9, y), 4, OTHERS[0].stroke_width(2)));
        }
        let label = TextStyle::from(("sans-serif", 11)).color(&RGBColor(90, 90, 90));
        for row in rows.iter().filter(|row| !row.prepared) {
            let name = row.case.preset.map_or_else(|| row.case.label(), str::to_owned);
            let at = EmptyElement::at((intensity(row), row.gflops())) + Text::new(name, (7, 2), label.clone());
            chart.draw_series([at])?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()?;
        Ok(())
    })
}

/// For each shape a bar for ours and for each baseline: the part of what the machine could do.
fn bars(rows: &[&Row]) -> Result<String> {
    let mut names: Vec<&'static str> = Vec::new();
    for Rival { name, .. } in rows.iter().flat_map(|row| &row.baselines) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let color = |name: &str| names.iter().position(|n| *n == name).map_or(BLACK, |at| OTHERS[at % OTHERS.len()]);
    const BAR: i32 = 13;
    const LEFT: i32 = 330;
    const WIDTH: i32 = 960;
    let legend = 22 * (names.len() as i32 + 2);
    let bars_of = |row: &Row| 1 + if row.prepared { 0 } else { row.baselines.len() as i32 };
    let height: i32 = legend + 30 + rows.iter().map(|row| bars_of(row) * BAR + 12).sum::<i32>();
    draw((WIDTH as u32, height as u32), |area| {
        let text = |size: i32, horizontal| {
            TextStyle::from(("sans-serif", size)).pos(Pos::new(horizontal, VPos::Center)).color(&RGBColor(40, 40, 40))
        };
        let prepared = rows.iter().any(|row| row.prepared).then_some(("ours, prepared", PREPARED));
        let others = names.iter().map(|&name| (name, color(name)));
        let all = std::iter::once(("ours", OURS)).chain(prepared).chain(others);
        for (index, (name, color)) in all.enumerate() {
            let y = 11 + 22 * index as i32;
            area.draw(&Rectangle::new([(LEFT, y - 6), (LEFT + 12, y + 6)], color.filled()))?;
            area.draw(&Text::new(name, (LEFT + 20, y), text(13, HPos::Left)))?;
        }
        // Bars may end at 105%, so that a figure above 100% shows as one.
        let full = f64::from(WIDTH - LEFT - 110);
        let mut y = legend + 20;
        for percent in [0, 25, 50, 75, 100] {
            let x = LEFT + (full * f64::from(percent) / 100.0) as i32;
            area.draw(&PathElement::new([(x, y - 4), (x, height - 8)], RGBColor(225, 225, 225)))?;
            area.draw(&Text::new(format!("{percent}%"), (x, y - 13), text(12, HPos::Center)))?;
        }
        for row in rows {
            let ours = (row.form(), row.seconds, if row.prepared { PREPARED } else { OURS });
            let others =
                row.baselines.iter().map(|&Rival { name, seconds, .. }| (name.to_owned(), seconds, color(name)));
            let middle = y + bars_of(row) * BAR / 2;
            let label = format!("{} {}", row.case.label(), row.form());
            area.draw(&Text::new(label, (LEFT - 8, middle), text(12, HPos::Right)))?;
            for (_, seconds, color) in std::iter::once(ours).chain(others.take(bars_of(row) as usize - 1)) {
                let part = row.floor() / seconds;
                let end = LEFT + (full * part.min(1.05)) as i32;
                area.draw(&Rectangle::new([(LEFT, y), (end.max(LEFT + 1), y + BAR - 2)], color.filled()))?;
                let figure = format!("{:.1}% {}", 100.0 * part, report::duration(seconds));
                area.draw(&Text::new(figure, (end + 5, y + BAR / 2 - 1), text(10, HPos::Left)))?;
                y += BAR;
            }
            y += 12;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// An SVG element.
fn draw(size: (u32, u32), figure: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>) -> Result<String> {
    let mut svg = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        figure(&area).and_then(|()| Ok(area.present()?))
    };
    drawn.map_err(|error| anyhow!("a plot could not be drawn: {error}"))?;
    Ok(svg.replacen("<?xml version=\"1.0\" encoding=\"UTF-8\"?>", "", 1))
}
