#!/bin/sh
# texts.sh FOLDER [SHARE]   print the name of a calibration text, made if needed: 1.8 MB of English from
# five Debian packages, by turns (a hackers' dictionary; quotations, poems and jokes; a political
# FAQ; questions and answers; a programming manual), or one part in SHARE of that
#
# Packages are downloaded and unpacked into FOLDER, not installed.
set -eu

folder=$1
share=${2:-1}
text=$folder/calibration-$share.txt
packages='jargon-text fortunes anarchism debian-faq perl-doc'

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
    gzip -dc "$shared/doc/jargon-text/jargon.txt.gz" >"$folder/packages/jargon"
    find "$shared/games/fortunes" -type f ! -name '*.*' | LC_ALL=C sort | xargs cat |
        sed 's/^%$//' >"$folder/packages/fortunes"
    find "$shared/doc/anarchism" -name 'sec*.html' | LC_ALL=C sort | xargs cat |
        sed 's/<p>/\n\n/g; s/<[^>]*>//g; s/&[a-z]*;/ /g' >"$folder/packages/anarchism"
    gzip -dc "$shared/doc/debian/FAQ/debian-faq.en.txt.gz" >"$folder/packages/faq"
    find "$folder/packages/usr" -name 'perl*tut.pod' | LC_ALL=C sort | xargs cat >"$folder/packages/perl"
    for source in jargon:110 fortunes:160 anarchism:40 faq:30 perl:20; do
        part "$folder/packages/${source%:*}" $((${source#*:} / share))
    done |
        LC_ALL=C tr -d '\000-\010\013-\037' >"$text.part"
    rm -r "$folder/packages"
    mv "$text.part" "$text"
fi
echo "$text"
