//! Makes thumbnails of all photographs (JPEG) of a folder. One that is broken, or breaks its decoder, is an error of its own.
//!
//! ```sh
//! cargo run --release -p polyproc --example thumbnails                      # of some photographs beside this file
//! cargo run --release -p polyproc --example thumbnails -- PICTURES OUTPUT   # of your own
//! ```

#![expect(clippy::print_stdout, reason = "an example")]

use jpeg_decoder::PixelFormat;
use polyproc::prelude::*;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The longer side of a thumbnail.
const SIDE: usize = 96;

/// Rows of red, green and blue.
struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn read(file: &Path) -> Result<Picture, Box<dyn std::error::Error>> {
        let mut decoder = jpeg_decoder::Decoder::new(BufReader::new(File::open(file)?));
        let pixels = decoder.decode()?;
        let info = decoder.info().ok_or("it has no head")?;
        let rgb = match info.pixel_format {
            PixelFormat::RGB24 => pixels,
            PixelFormat::L8 => pixels.into_iter().flat_map(|grey| [grey; 3]).collect(),
            other => return Err(format!("pixels of the kind {other:?} are not known here").into()),
        };
        Ok(Picture { width: info.width.into(), height: info.height.into(), rgb })
    }

    /// Each pixel of the result is the mean of those that it stands for.
    fn smaller(&self) -> Picture {
        let longer = self.width.max(self.height).max(SIDE);
        let (width, height) = ((self.width * SIDE / longer).max(1), (self.height * SIDE / longer).max(1));
        let mut rgb = Vec::with_capacity(width * height * 3);
        for (y, x, colour) in (0..height).flat_map(|y| (0..width).flat_map(move |x| (0..3).map(move |c| (y, x, c)))) {
            let rows = y * self.height / height..((y + 1) * self.height).div_ceil(height);
            let columns = x * self.width / width..((x + 1) * self.width).div_ceil(width);
            let count = rows.len() * columns.len();
            let of = |row: usize| columns.clone().map(move |column| (row * self.width + column) * 3 + colour);
            let sum: usize = rows.flat_map(of).map(|at| usize::from(self.rgb[at])).sum();
            rgb.push((sum / count) as u8);
        }
        Picture { width, height, rgb }
    }

    fn write(&self, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let mut encoder = png::Encoder::new(File::create(file)?, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        Ok(())
    }
}

/// Gives the size of the photograph, and of its thumbnail.
fn thumbnail(photograph: PathBuf, output: PathBuf) -> Result<[(usize, usize); 2], String> {
    let made = || -> Result<[(usize, usize); 2], Box<dyn std::error::Error>> {
        let picture = Picture::read(&photograph)?;
        let small = picture.smaller();
        small.write(&output.join(photograph.file_stem().unwrap_or_default()).with_extension("png"))?;
        Ok([(picture.width, picture.height), (small.width, small.height)])
    };
    made().map_err(|error| error.to_string())
}

fn is_photograph(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("jpg") || end.eq_ignore_ascii_case("jpeg"))
}

#[polyproc::main]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/photographs");
    let folder = arguments.next().unwrap_or_else(beside);
    let output = arguments.next().unwrap_or_else(|| std::env::temp_dir().join("thumbnails"));
    std::fs::create_dir_all(&output)?;
    let mut pictures: Vec<PathBuf> = std::fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    pictures.retain(|path| is_photograph(path));
    pictures.sort();

    let begin = Instant::now();
    let pool = Pool::builder().timeout(Duration::from_secs(30)).build()?;
    let jobs = pictures.iter().map(|picture| (picture.clone(), output.clone()));
    for (picture, made) in pictures.iter().zip(pool.starmap(thumbnail, jobs)?.progress_bar("thumbnails")) {
        let name = picture.file_name().unwrap_or_default().display();
        match made {
            Ok(Ok([(width, height), (small_width, small_height)])) => {
                println!("{name}: {width} × {height}, now {small_width} × {small_height}");
            }
            Ok(Err(why)) => println!("{name}: {why}"),
            Err(death) => println!("{name}: {death}"),
        }
    }
    println!("{} pictures in {:.2} s, in {}", pictures.len(), begin.elapsed().as_secs_f64(), output.display());
    Ok(())
}
