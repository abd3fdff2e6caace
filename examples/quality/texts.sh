#!/bin/sh
# texts.sh FOLDER   print the name of a calibration text, made if needed: 240 KB of English from three
# Debian packages, by turns (a hackers' dictionary, quotations and poems, questions and answers)
#
# Packages are downloaded and unpacked into FOLDER, not installed.
set -eu

folder=$1
text=$folder/calibration-long.txt
packages='jargon-text fortunes debian-faq'

# part FILE COUNT: COUNT slices of 5000 bytes, evenly spaced, each from the start of a paragraph
part() {
    awk -v count="$2" 'BEGIN { RS = ""; ORS = "\n\n" }
        { paragraph[NR] = $0; start[NR] = size; size += length($0) + 2 }
        END {
            for (i = j = 0; i < count; i++) {
                while (start[j + 1] < i * size / count) j++
                for (taken = 0; taken < 5000 && j < NR; taken += length(paragraph[j]) + 2)
                    print paragraph[++j]
            }
        }' "$1"
}

if ! [ -s "$text" ]; then
    mkdir -p "$folder/packages"
    (cd "$folder/packages" && { apt-get download $packages || { apt-get update && apt-get download $packages; }; }) >&2
    for package in $packages; do
        dpkg-deb -x "$folder/packages/$package"_*.deb "$folder/packages"
    done
    shared=$folder/packages/usr/share
    gzip -dc "$shared/doc/jargon-text/jargon.txt.gz" >"$folder/packages/1"
    gzip -dc "$shared/doc/debian/FAQ/debian-faq.en.txt.gz" >"$folder/packages/3"
    for name in people science songs-poems wisdom computers law art pratchett; do
        cat "$shared/games/fortunes/$name"
    done | sed 's/^%$//' >"$folder/packages/2"
    for source in 1 2 3; do part "$folder/packages/$source" 16; done |
        LC_ALL=C tr -d '\000-\010\013-\037' >"$text.part"
    rm -r "$folder/packages"
    mv "$text.part" "$text"
fi
echo "$text"
