"""Where the layers of published networks are in ours, as text.

A table has a line for each layer, or for a group of layers in which all further names agree: the
published name and ours. Braces list names that differ, in the same order on both sides. Where only
the weight of a layer is named, the published one has no bias, and that of ours is 0.
"""

from __future__ import annotations

import re
from itertools import product


def expand(name: str) -> list[str]:
    """``a.{b,c}.{d,e}`` to a.b.d, a.b.e, a.c.d, a.c.e."""
    pieces = [piece.split(",") for piece in re.split(r"[{}]", name)]
    return ["".join(choice) for choice in product(*pieces)]


def read_table(table: str) -> dict[str, str]:
    """Published name to ours."""
    expanded = [zip(*map(expand, line), strict=True) for line in _lines(table)]
    return {theirs: ours for line in expanded for theirs, ours in line}


def inside(theirs: str, ours: str, table: str) -> str:
    """``table`` with a prefix on each side."""
    return "".join(f"{theirs}{left} {ours}{right}\n" for left, right in _lines(table))


def _lines(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines() if line]


PROJECTION = """
mv_cdw_alignment.{linear,bn}        heads.alignment.head.{linear,norm}
"""
POINTMCD_HEAD = """
cdw_alignment.{linear,bn}           head.{linear,norm}
classifier                          head.classifier
"""
POINTNET = """
{conv1,bn1}                         first.{linears,norms}.0
{conv2,conv3}                       rest.linears.{0,1}
{bn2,bn3}                           rest.norms.{0,1}
{stn,fstn}.{conv1,conv2,conv3}      {point,feature}_transform.of_points.linears.{0,1,2}
{stn,fstn}.{bn1,bn2,bn3}            {point,feature}_transform.of_points.norms.{0,1,2}
{stn,fstn}.{fc1,fc2}                {point,feature}_transform.of_cloud.linears.{0,1}
{stn,fstn}.{bn4,bn5}                {point,feature}_transform.of_cloud.norms.{0,1}
{stn,fstn}.fc3                      {point,feature}_transform.last
"""
POINTNET_PARTS = """
dec_mlp_{1,2,3}.conv                network.decoder.linears.{0,1,2}
dec_mlp_{1,2,3}.bn                  network.decoder.norms.{0,1,2}
dec_mlp_4.conv                      network.classifier
"""
DGCNN = """
edge_conv_{1,2,3,4}.smlp.{conv,bn}  encoder.convs.{0,1,2,3}.{linear,norm}
ms_fusion.{conv,bn}                 encoder.fusion.{linears,norms}.0
"""
DGCNN_PARTS = """
econv_{1,2}.smlp.0.{conv,bn}        convs.{0,1}.{linear,norm}
econv_{1,2}.smlp.1.{conv,bn}        convs.{0,1}.{second,second_norm}
econv_3.smlp.{conv,bn}              convs.2.{linear,norm}
pw_embedding.{conv,bn}              fusion.{linears,norms}.0
class_lifting.{linear,bn}           category.{linear,norm}
seg_conv_{1,2,3}.{conv,bn}          decoder.{0,1,2}.{linear,norm}
seg_conv_4.conv                     classifier
"""
TEACHER = """
cnn_backbone                        backbone.features
mv_cdw_embedding.{conv,bn}          view_head.{0,1}
cdw_embedding.{linear,bn}           shape_head.{0,1}
classifier                          classifier
"""
# our stages keep the numbers that the layers have in torchvision's network
VGG = """
conv_1.0.{0,1,4,5}                  backbone.stages.0.0.{0,1,4,5}
conv_2.0.{1,2,4,5}                  backbone.stages.1.0.{8,9,11,12}
conv_3.0.{1,2,4,5}                  backbone.stages.2.0.{15,16,18,19}
conv_4.0.{1,2,4,5}                  backbone.stages.3.0.{22,23,25,26}
conv_{1,2}.1.conv.conv              backbone.stages.{0,1}.1.conv
conv_{3,4}.1.fc.{0,1}.linear        backbone.stages.{2,3}.1.bottleneck.{0,2}
"""
VIEW_DECODER = """
lifting.{linear,bn}                 decoder.lifting.{0,1}
deconv_{1,2,3,4}.{conv,bn}          decoder.steps.{0,1,2,3}.{0,1}
output.conv                         decoder.output
"""
PART_DECODER = """
{lift,fuse}.{linear,bn}             decoder.{lift,fuse}.{0,1}
dec_{1,2,3,4,5}.{conv,bn}           decoder.steps.{0,1,2,3,4}.{0,1}
output.conv                         decoder.output
"""
ONE_SCALE = """
sa{1,2}.mlp_{convs,bns}             {first,second}.balls.0.{linears,norms}
sa3.mlp_{convs,bns}                 last.{linears,norms}
"""
SCALES = """
sa{1,2}.conv_blocks.{0,1}           {first,second}.balls.{0,1}.linears
sa{1,2}.bn_blocks.{0,1}             {first,second}.balls.{0,1}.norms
sa1.{conv,bn}_blocks.2              first.balls.2.{linears,norms}
sa3.mlp_{convs,bns}                 last.{linears,norms}
"""
THIRD_SCALE = """
sa2.{conv,bn}_blocks.2              second.balls.2.{linears,norms}
"""
CLASSIFIER = """
{fc1,bn1}                           head.hidden.0.{0,1}
{fc2,bn2}                           head.hidden.1.{0,1}
fc3                                 head.classifier
"""
PROPAGATION = """
fp{3,2,1}.mlp_{convs,bns}           to_{second,first,points}.{linears,norms}
{conv1,bn1}                         head.{linears,norms}.0
conv2                               classifier
"""
CIC = """
conv{1,2}.{0,1}                     {squeeze,expand}.{linear,norm}
lpfa.xyz2feature.{0,1}              lpfa.position.{linear,norm}
lpfa.mlp.0.{0,1}                    lpfa.mix.{linear,norm}
"""
CURVES = """
curvegrouping.att                           grouping.score
curvegrouping.walk.agent_mlp.{0,1}          grouping.walk.{choose,choose_norm}
curvegrouping.walk.momentum_mlp.{0,1}       grouping.walk.blend.{linear,norm}
curveaggregation.{conva,convb,convc}        aggregation.{curve_key,step_key,query}
curveaggregation.{convn,convl}              aggregation.{curve_value,step_value}
curveaggregation.convd.{0,1}                aggregation.merge.{linear,norm}
curveaggregation.line_conv_att              aggregation.weigh
"""
CURVENET_ENDS = """
lpfa.mlp.0.{0,1}                    encoder.first.position.{linear,norm}
cic{11,21,31,41}.shortcut.{0,1}     encoder.blocks.{0,2,4,6}.shortcut.{linear,norm}
conv0.{0,1}                         encoder.last.{linears,norms}.0
{conv1,bn1}                         head.hidden.0.{0,1}
conv2                               head.classifier
"""
POINTCMT_TEACHER = """
net.{0,1,4,5,6,7}                   backbone.features.{0,1,4,5,6,7}
fc.0                                classifier
"""
POINTCMT_GENERATOR = """
fc_l.1                              layers.1
"""
POINTCMT_LAYERS = """
layer{0,1,2}.conv.weight            linears.{0,1,2}.weight
layer{0,1,2}.normlayer.bn           norms.{0,1,2}
"""
POINTCMT_HEAD = """
model.fc_layer1.0.fc                head.linear
model.fc_layer1.0.bn.bn             head.norm
model.fc_layer2.0                   head.classifier
"""
DGCNN_CLASSES = """
conv{1,2,3,4}.{0,1}                 encoder.convs.{0,1,2,3}.{linear,norm}
conv5.{0,1}                         encoder.fusion.{linear,norm}
{linear1,bn6}                       head.hidden.0.{0,1}
{linear2,bn7}                       head.hidden.1.{0,1}
linear3                             head.classifier
"""
DGCNN_COPIES = """
bn{1,2,3,4,5}                       conv{1,2,3,4,5}.1
"""
POINTMLP = """
embedding.net.{0,1}                                 encoder.first.{linears,norms}.0
local_grouper_list.{0,1,2,3}.affine_{alpha,beta}    encoder.stages.{0,1,2,3}.{alpha,beta}
pre_blocks_list.{0,1,2,3}.transfer.net.{0,1}        encoder.stages.{0,1,2,3}.describe.{linear,norm}
classifier.{0,1}                                    head.hidden.0.{0,1}
classifier.{4,5}                                    head.hidden.1.{0,1}
classifier.8                                        head.classifier
"""
RESIDUAL = """
net1.{0,1}                          squeeze.{linear,norm}
net2.{0,1}                          expand.{linear,norm}
"""
POINTNEXT = """
encoder.encoder.0.0.convs.0.0               encoder.first
encoder.encoder.{1,2,3,4}.0.convs.0.{0,1}   encoder.levels.{0,1,2,3}.first.{linear,norm}
encoder.encoder.{1,2,3,4}.0.convs.1.{0,1}   encoder.levels.{0,1,2,3}.second.{linear,norm}
encoder.encoder.{1,2,3,4}.0.skipconv.0      encoder.levels.{0,1,2,3}.skip
encoder.encoder.5.0.convs.{0,1}.0           encoder.last.linears.{0,1}
encoder.encoder.5.0.convs.{0,1}.1           encoder.last.norms.{0,1}
prediction.head.{0,2}.{0,1}                 head.hidden.{0,1}.{0,1}
prediction.head.4.0                         head.classifier
"""
