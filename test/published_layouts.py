# SPDX-License-Identifier: Apache-2.0
"""Small trees with the layout and the encodings of the published archives."""

import cv2
import numpy as np
from PIL import Image

SIZE = (12, 20)
IGNORED = 255


def write_picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = 200  # red, in RGB
    Image.fromarray(picture).save(path, quality=95)


def write_ids(path, ids, kind='grey'):
    """Write one id for each column of the picture, as the archive does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    void = {'synthia': 0, 'palette': ids[-1]}.get(kind, 255)
    labels = np.full(SIZE, void, np.uint8)
    labels[:, :len(ids)] = ids
    if kind == 'synthia':  # 16 bit; OpenCV writes BGR: the id is in red
        stored = np.zeros((*SIZE, 3), np.uint16)
        stored[..., 2], stored[..., 1] = labels, 77  # green: the instance
        cv2.imwrite(str(path), stored)
    elif kind == 'palette':
        picture = Image.fromarray(labels, mode='P')
        picture.putpalette(list(range(255, -1, -1)) * 3)
        picture.save(path)
    else:
        Image.fromarray(labels).save(path)


# name: (option, picture, labels, encoding, stored ids, ids they must become)
LAYOUTS = {
    'gta5': ('', 'images/00001.png', 'labels/00001.png', 'palette',
             [7, 8, 11, 26, 33, 0, 34, 4], [0, 1, 2, 13, 18, IGNORED, IGNORED, IGNORED]),
    'synthia': ('', 'RGB/0000000.png', 'GT/LABELS/0000000.png', 'synthia',
                [3, 4, 2, 21, 1, 10, 17, 19, 22, 16, 0],
                [0, 1, 2, 3, 10, 11, 12, 15, IGNORED, IGNORED, IGNORED]),
    'urbansyn': ('', 'rgb/rgb_0001.png', 'ss/ss_0001.png', 'grey', [0, 18, 19], [0, 18, IGNORED]),
    'cityscapes': ('', 'leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png',
                   'gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png', 'grey',
                   [7, 33, 1, 0], [0, 18, IGNORED, IGNORED]),
    'bdd100k': ('', 'images/10k/val/7d2f7975.jpg', 'labels/sem_seg/masks/val/7d2f7975.png',
                'grey', [0, 18, 255], [0, 18, IGNORED]),
    'mapillary': ('', 'validation/images/a_B-c.jpg', 'validation/labels/a_B-c.png', 'palette',
                  [13, 41, 7, 44, 65], [0, 0, IGNORED, IGNORED, IGNORED]),
    'acdc': ('', 'rgb_anon/fog/val/GOPR0475/GOPR0475_frame_000001_rgb_anon.png',
             'gt/fog/val/GOPR0475/GOPR0475_frame_000001_gt_labelTrainIds.png', 'grey',
             [0, 18, 255], [0, 18, IGNORED]),
    'dark-zurich': ('', 'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000321_rgb_anon.png',
                    'gt/val/night/GOPR0356/GOPR0356_frame_000321_gt_labelTrainIds.png', 'grey',
                    [10, 255], [10, IGNORED]),
    'muses': ('', 'frame_camera/val/fog/day/REC0001_frame_000001_frame_camera.png',
              'gt_semantic/val/fog/day/REC0001_frame_000001_gt_labelTrainIds.png', 'grey',
              [10, 255], [10, IGNORED]),
    'nightcity': ('', 'val/img/Chicago_0002.png', 'val/lbl/Chicago_0002_trainIds.png', 'grey',
                  [10, 255], [10, IGNORED]),
    'wilddash2': ('', 'images/aa0000.jpg', 'labels/aa0000.png', 'grey',
                  [7, 34, 35, 38, 37, 0], [0, 13, 13, 0, IGNORED, IGNORED]),
    'camvid': (',split=test', 'test/images/Seq05VD_f00000.jpg', 'test/labels/Seq05VD_f00000.png',
               'grey', [0, 1, 3, 10, 255], [10, 2, 0, 12, IGNORED]),
}


def make(root, name, ids=None):
    option, picture, labels, kind, stored, _ = LAYOUTS[name]
    write_picture(root / picture)
    write_ids(root / labels, stored if ids is None else ids, kind)
    return f'{name}:{root}{option}'
