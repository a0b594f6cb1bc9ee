//! A result as one HTML file: the lines of the report and its plots, nothing from elsewhere.
#![expect(clippy::float_arithmetic, reason = "coordinates")]

use plotters::prelude::{
    ChartBuilder, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor, SVGBackend, WHITE,
};

use super::measure::spectrum;
use super::numbers::{float, millis, seconds};
use super::report::{Report, grouped};

/// Pixels of one plot.
const SIZE: (u32, u32) = (900, 340);

const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(220, 110, 20);
const RED: RGBColor = RGBColor(200, 40, 50);

/// Points of the spectrum end here: 1 in so many requests was longer.
const RARITY_MAX: f64 = 1e7;

struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

struct Plot<'a> {
    title: &'a str,
    x_name: &'a str,
    y_name: &'a str,
    x_label: &'a dyn Fn(&f64) -> String,
    lines: Vec<Line<'a>>,
}

/// The report as one self-contained page. `Err`: what the plotter had to say.
pub fn html(report: &Report<'_>) -> Result<String, String> {
    let title = format!(
        "counterfoil bench: {} operations/s",
        grouped(report.measured.rate())
    );
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n\
         <style>body{{font:15px/1.5 sans-serif;max-width:920px;margin:2em auto;padding:0 1em}}\
         pre{{white-space:pre-wrap;background:#f4f4f4;padding:1em}}svg{{max-width:100%;\
         height:auto}}</style></head><body>\n<h1>{title}</h1>\n<pre>"
    );
    for (name, value) in report.labels {
        page.push_str(&escaped(&format!("{name} = {value}\n")));
    }
    page.push_str(&escaped(&report.lines().join("\n")));
    page.push_str("</pre>\n");
    for plot in [
        throughput(report),
        latency_over_time(report),
        latency_spectrum(report),
    ] {
        page.push_str(&drawn(&plot)?);
        page.push('\n');
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

fn throughput<'a>(report: &Report<'_>) -> Plot<'a> {
    let intervals = report.measured.intervals.iter();
    let points = intervals.map(|one| (seconds(one.to_ns), float(one.rate())));
    Plot {
        title: "Throughput, warm-up included",
        x_name: "seconds",
        y_name: "operations/s",
        x_label: &|x| format!("{x:.0}"),
        lines: vec![Line {
            name: "operations/s",
            color: BLUE,
            points: points.collect(),
        }],
    }
}

fn latency_over_time<'a>(report: &Report<'_>) -> Plot<'a> {
    let intervals = &report.measured.intervals;
    let line = |name, color, of: &dyn Fn(&super::Interval) -> u64| Line {
        name,
        color,
        points: intervals
            .iter()
            .map(|one| (seconds(one.to_ns), millis(of(one))))
            .collect(),
    };
    Plot {
        title: "Latency of requests over time",
        x_name: "seconds",
        y_name: "ms",
        x_label: &|x| format!("{x:.0}"),
        lines: vec![
            line("p50", BLUE, &|one| one.p50_ns),
            line("p99", ORANGE, &|one| one.p99_ns),
            line("p99.9", RED, &|one| one.p999_ns),
        ],
    }
}

/// By rarity: each step to the right is ten times rarer.
fn latency_spectrum<'a>(report: &Report<'_>) -> Plot<'a> {
    let points = spectrum(report.measured.latency()).into_iter();
    let points = points.map(|(quantile, nanos)| {
        let rarity = 1.0 / (1.0 - quantile).max(1.0 / RARITY_MAX);
        (rarity.log10(), millis(nanos))
    });
    Plot {
        title: "Latency spectrum",
        x_name: "percentile",
        y_name: "ms",
        x_label: &|x| percentile_label(*x),
        lines: vec![Line {
            name: "latency",
            color: BLUE,
            points: points.collect(),
        }],
    }
}

/// 1 is 90 %, 2 is 99 %, 3 is 99.9 %; what lies between has its digits too.
fn percentile_label(power: f64) -> String {
    let percentile = 100.0 * (1.0 - 10.0_f64.powf(-power));
    let text = format!("{percentile:.5}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn drawn(plot: &Plot<'_>) -> Result<String, String> {
    let mut svg = String::new();
    draw(plot, SVGBackend::with_string(&mut svg, SIZE)).map_err(|error| error.to_string())?;
    Ok(svg)
}

fn draw(
    plot: &Plot<'_>,
    backend: SVGBackend<'_>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let points = || plot.lines.iter().flat_map(|line| &line.points);
    let largest = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max);
    // A plot without extent cannot be drawn.
    let x_max = largest(|point| point.0).max(1e-3);
    let y_max = largest(|point| point.1).max(1e-3) * 1.05;
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(plot.title, ("sans-serif", 18).into_font())
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
    chart
        .configure_mesh()
        .x_desc(plot.x_name)
        .y_desc(plot.y_name)
        .x_label_formatter(plot.x_label)
        .y_label_formatter(&|y| {
            if *y < 100.0 {
                format!("{y:.1}")
            } else {
                format!("{y:.0}")
            }
        })
        .draw()?;
    for line in &plot.lines {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), color))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    if 1 < plot.lines.len() {
        chart
            .configure_series_labels()
            .background_style(WHITE)
            .draw()?;
    }
    root.present()?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_is_drawn_whatever_the_points_are() {
        for points in [
            Vec::new(),
            vec![(0.0, 0.0)],
            vec![(1.0, 5.0), (2.0, 7.0), (3.0, 1e9)],
        ] {
            let svg = drawn(&Plot {
                title: "a & b",
                x_name: "x",
                y_name: "y",
                x_label: &|x| format!("{x}"),
                lines: vec![Line {
                    name: "one",
                    color: BLUE,
                    points,
                }],
            });
            let svg = svg.unwrap();
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.contains("a &amp; b"));
        }
    }

    #[test]
    fn the_spectrum_is_labelled_by_percentiles() {
        assert_eq!(percentile_label(0.0), "0");
        assert_eq!(percentile_label(1.0), "90");
        assert_eq!(percentile_label(3.0), "99.9");
        assert_eq!(percentile_label(5.0), "99.999");
    }

    #[test]
    fn labels_cannot_break_the_page() {
        assert_eq!(escaped("<b>&"), "&lt;b&gt;&amp;");
    }
}
