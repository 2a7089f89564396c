package edu.stanford.nlp.trees;

public class GrammaticalRelation {}
