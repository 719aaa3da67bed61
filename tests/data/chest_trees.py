"""Small chest X-ray sets in their official layouts: true paths, true column names, made-up patients."""

from __future__ import annotations

import gzip

import dicom_files
import numpy as np
from pydicom import config

from medgen_jax.data.images import write_image


def picture(path, level=0, size=8, channels=1):
    """A flat picture; JPEG files are written as PNG data, which is told by content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((size, size, channels), level, np.uint8)
    if path.suffix == ".png":
        write_image(path, image)
    else:
        write_image(path.with_suffix(".png"), image)
        path.with_suffix(".png").rename(path)


def lines(path, *rows, packed=False):
    """A text file of these lines, gzipped when asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(rows) + "\n").encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def change(path, old, new):
    """Replace text that a file holds once."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


# ---- RSNA ----------------------------------------------------------------------------------------

#: patientId -> class, boxes, view, sex, age, NIH image.
RSNA = {
    "aaaa-00": ("Normal", (), "PA", "F", "43", "00000011_000.png"),
    "bbbb-01": ("Lung Opacity", ((1, 2, 3, 4), (5.5, 0, 2, 2)), "AP", "M", "61", "00000011_004.png"),
    "cccc-02": ("No Lung Opacity / Not Normal", (), "PA", "M", "150", "00000012_000.png"),
    "dddd-03": ("Normal", (), "AP", "F", "", "00000013_001.png"),
    "eeee-04": ("Lung Opacity", ((0, 0, 8, 8),), "AP", "M", "7", "00000014_000.png"),
    "ffff-05": ("Normal", (), "PA", "O", "019Y", "00000015_000.png"),
}


def rsna(root):
    boxes, classes, known = ["patientId,x,y,width,height,Target"], ["patientId,class"], ["patientId,nih_image"]
    for level, (name, (kind, own, view, sex, age, nih)) in enumerate(RSNA.items()):
        folder = root / "stage_2_train_images"
        folder.mkdir(parents=True, exist_ok=True)
        header = {"PatientSex": sex, "ViewPosition": view}
        pixels = np.full((8, 8), 10 * level, np.uint8)
        data = dicom_files.dataset(pixels, PatientID=name, PatientName=f"Doe^{name}", **header)
        with config.disable_value_validation():
            data.add_new("PatientAge", "AS", age)
            data.save_as(folder / f"{name}.dcm", enforce_file_format=True)
        boxes += [f"{name},{','.join(map(str, box))},1" for box in own] or [f"{name},,,,,0"]
        classes += [f"{name},{kind}"] * max(1, len(own))
        known.append(f"{name},{nih}")
    lines(root / "stage_2_train_labels.csv", *boxes)
    lines(root / "stage_2_detailed_class_info.csv", *classes)
    lines(root / "map.csv", *known)
    return root


# ---- Kermany -------------------------------------------------------------------------------------

KERMANY = {
    "train/NORMAL": ("IM-0115-0001", "NORMAL2-IM-0501-0001", "NORMAL2-IM-0501-0001-0002", "IM-0117-0001"),
    "train/PNEUMONIA": ("person1_bacteria_1", "person1_bacteria_2", "person3_virus_7", "person5_virus_9"),
    "val/NORMAL": ("NORMAL2-IM-1427-0001",),
    "val/PNEUMONIA": ("person1946_bacteria_4874",),
    "test/NORMAL": ("IM-0001-0001",),
    "test/PNEUMONIA": ("person1_virus_6", "person8_virus_27"),
}


def kermany(root):
    level = 0
    for folder, names in KERMANY.items():
        for name in names:
            for copy in ("chest_xray", "chest_xray/chest_xray", "__MACOSX/chest_xray"):
                marked = f"._{name}" if copy.startswith("__") else name
                # Some files of the set hold grey pictures as RGB.
                picture(root / copy / folder / f"{marked}.jpeg", level, channels=1 + 2 * (level % 2))
            level += 1
    return root


# ---- COVID-QU-Ex ---------------------------------------------------------------------------------

COVID_QU_EX = {"COVID-19": "covid_{}", "Non-COVID": "non_COVID ({})", "Normal": "Normal ({})"}


def covid_qu_ex(root, part="Lung", doubled=True, per_class=2):
    """Masks hold 255 in their upper half, infection masks of the other classes nothing."""
    whole = root / f"{part} Segmentation Data"
    whole = whole / whole.name if doubled else whole
    columns = ("images", "lung masks") + (("infection masks",) if part == "Infection" else ())
    for start, split in enumerate(("Train", "Val", "Test")):
        for name, form in COVID_QU_EX.items():
            for i in range(per_class):
                for column in columns:
                    path = whole / split / name / column / f"{form.format(start * per_class + i + 1)}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = np.full((8, 8, 3 if column == "images" else 1), 40 * i + 7, np.uint8)
                    if column != "images":
                        image[:4], image[4:] = 255 * (column == "lung masks" or name == "COVID-19"), 0
                    write_image(path, image)
    return root


# ---- NIH ChestX-ray14 ----------------------------------------------------------------------------

#: Image -> findings, patient, age, sex, view, list.
NIH = {
    "00000001_000.png": ("Cardiomegaly", "1", "58", "M", "PA", "train_val"),
    "00000001_001.png": ("Cardiomegaly|Emphysema", "1", "58", "M", "PA", "train_val"),
    "00000002_000.png": ("No Finding", "2", "81", "M", "AP", "train_val"),
    "00000003_000.png": ("Hernia", "3", "414", "F", "PA", "train_val"),
    "00000004_000.png": ("Mass|Nodule|Pleural_Thickening", "4", "82", "M", "AP", "train_val"),
    "00000005_000.png": ("Infiltration", "5", "69", "F", "PA", "test"),
    "00000006_000.png": ("Infiltration|Mass", "6", "70", "F", "PA", "test"),
}
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NIH_BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "00000005_000.png,Infiltrate,1.5,2.25,3,4,,,",
    "00000005_000.png,Infiltrate,1.5,2.25,3,4,,,",
    "00000006_000.png,Mass,0,0,2,2,,,",
    "00000006_000.png,Mass,4,4,2,2,,,",
)


def nih14(root):
    for level, name in enumerate(NIH):
        # A few hundred files are RGBA, opaque.
        picture(root / f"images_{1 + level // 4:03d}" / "images" / name, level, channels=3 if level == 2 else 1)
    rows = [f"{name},{f},0,{p},{a},{s},{v},2682,2749,0.143,0.143" for name, (f, p, a, s, v, _) in NIH.items()]
    lines(root / "Data_Entry_2017_v2020.csv", NIH_HEADER, *rows)
    for which in ("train_val", "test"):
        lines(root / f"{which}_list.txt", *(name for name, about in NIH.items() if about[-1] == which))
    lines(root / "BBox_List_2017.csv", *NIH_BOXES)
    return root


# ---- MIMIC-CXR -----------------------------------------------------------------------------------

MIMIC_FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,Lung Opacity,"
    "No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
#: dicom_id -> subject, study, view, split.
MIMIC = {
    "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014": ("10000032", "50414267", "PA", "train"),
    "174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962": ("10000032", "50414267", "LATERAL", "train"),
    "2a2277a9-b0ded155-c0de8eb9-c124d10e-82c5caab": ("10000764", "57375967", "AP", "train"),
    "e084de3b-be89b11e-20fe3f9f-9c8d8dfe-4cfd202c": ("11000898", "50771383", "AP", "validate"),
    "68b5c4b1-227d0485-9cc38c3f-7b84ab51-4b472714": ("19000935", "50578979", "PA", "test"),
    "096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4": ("19000935", "51178377", "AP", "test"),
}
#: study -> Atelectasis, Pneumonia; the last study has no labels.
MIMIC_LABELS = {"50414267": ("1.0", "-1.0"), "57375967": ("", "0.0"), "50771383": ("0.0", ""), "50578979": ("", "1.0")}


def mimic_cxr(root, packed=True):
    def table(name, *rows):
        lines(root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' if packed else ''}", *rows, packed=packed)

    metadata = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"]
    split = ["dicom_id,study_id,subject_id,split"]
    for level, (name, (subject, study, view, its)) in enumerate(MIMIC.items()):
        picture(root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.jpg", level)
        metadata.append(f"{name},{subject},{study},CHEST (PA AND LAT),{view},8,8")
        split.append(f"{name},{study},{subject},{its}")
    table("metadata", *metadata)
    table("split", *split)
    labels = [f"1,{study},{first},,,,,,,,,,,{second},," for study, (first, second) in MIMIC_LABELS.items()]
    table("chexpert", f"subject_id,study_id,{MIMIC_FINDINGS}", *labels)
    return root


# ---- RALO and the severity scores ----------------------------------------------------------------

RALO = (("P1", "4", "6", "5", "8"), ("P1", "1", "2", "", "4"), ("P2", "0", "0", "0", "0"), ("P3", "8", "7.5", "8", "8"))


def ralo(root, rows=RALO):
    scores = [f"{patient},20200401,{','.join(own)}" for patient, *own in rows]
    header = "Subject_ID,Exam_DateTime,Total GEOGRAPHIC,Total OPACITY,Total GEOGRAPHIC,Total OPACITY"
    lines(root / "ralo-dataset-metadata.csv", ",,Expert 1,,Expert 2,", header, *scores)
    for i in range(len(rows)):
        picture(root / "CXR_images_scored" / f"{i}.jpg", i)
    return root


SEVERITY = (("a.jpeg", "6.0", "4.0", "2"), ("b-PA.png", "2.7", "3.0", "2"), ("c.jpg", "0.0", "0.0", "5"))


def covid_severity(root):
    comment = [f"## line {i}, with a comma" for i in range(5)]
    scores = [f"{name},{extent},{opacity}" for name, extent, opacity, _ in SEVERITY]
    table = root / "annotations" / "covid-severity-scores.csv"
    lines(table, *comment, "filename,geographic_mean,opacity_mean", *scores)
    about = [f'{patient},0,M,"said ""fine""\nand more",{name}' for name, _, _, patient in SEVERITY]
    lines(root / "metadata.csv", "patientid,offset,sex,clinical_notes,filename", *about)
    for level, (name, *_) in enumerate(SEVERITY):
        picture(root / "images" / name, level)
    return root
